"""The metadata of a file holds everything needed to draw its images again, and damage is reported."""

import json
import random

import numpy as np
import pytest
from PIL import ExifTags, Image

from t2i_tpu.errors import UserError
from t2i_tpu.sample import picture_files
from t2i_tpu.sample import records as records_lib
from t2i_tpu.sample.images import Images
from t2i_tpu.sample.picture_files import read_records
from t2i_tpu.storage import outputs

RECORDS = [
    {
        "prompt": prompt,
        "seed": 2**32 - 1 - seed,
        "workdir": "gs://bucket/☃",
        "sample": {"steps": 8, "guidance_scale": 2.5, "interval": [0.1, None]},
        "flag": [True, 1, 1.0][seed],
    }
    for prompt in ("red heart", 'a "quote"\n\t\\ é 赤い \ud83d', [["a cat", 1.0], ["a hat", 0.5]])
    for seed in range(3)
]
ENDINGS = ["png", "jpg", "webp", "gif", "mp4"]


@pytest.fixture(scope="module")
def pictures(emoji_pictures, tmp_path_factory):
    """A file of each format, by its ending."""
    folder = tmp_path_factory.mktemp("files")
    for ending in ENDINGS:
        Images(emoji_pictures[:9], RECORDS).save(folder / f"x.{ending}")
    return {ending: folder / f"x.{ending}" for ending in ENDINGS}


@pytest.mark.parametrize("ending", ENDINGS)
def test_records_are_read_back(pictures, ending):
    records = read_records(pictures[ending])
    assert json.dumps(records, sort_keys=True) == json.dumps(RECORDS, sort_keys=True)


def test_mark_is_that_of_the_storage_layer():
    assert records_lib.MARK == outputs.MARK


def test_other_programs_find_the_records(pictures):
    """The records are in the metadata fields that the formats provide for comments."""
    text = Image.open(pictures["png"]).text
    assert text["Software"] == "t2i_tpu"
    assert json.loads(text["t2i_tpu"])["images"][3]["prompt"] == RECORDS[3]["prompt"]
    for ending in ("jpg", "webp"):
        exif = Image.open(pictures[ending]).getexif()
        assert exif[ExifTags.Base.Software] == "t2i_tpu"
        comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert (
            json.loads(comment.removeprefix(b"ASCII\0\0\0"))["common"]["workdir"] == "gs://bucket/☃"
        )


def test_numpy_values_become_plain():
    text = records_lib.pack([{"seed": np.uint32(7), "scale": np.float64(2.5), "v": np.arange(2)}])
    assert records_lib.unpack(text, "x") == [{"seed": 7, "scale": 2.5, "v": [0, 1]}]
    assert records_lib.pack([]) == ""


def test_png_keeps_its_records_after_the_pixels(pictures, tmp_path):
    """Some programs move the metadata after the pixels."""
    content = pictures["png"].read_bytes()
    start = content.index(b"t2i_tpu\0{") - 8
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    moved = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "x.png").write_bytes(moved)
    assert len(read_records(tmp_path / "x.png")) == 9


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_without_records_is_an_error(pictures, tmp_path, ending):
    """Pillow, like many programs, does not keep the metadata."""
    path = tmp_path / f"x.{ending}"
    if ending == "mp4":
        path.write_bytes(pictures["mp4"].read_bytes().replace(b't2i_tpu {"', b'another {"'))
    else:
        picture = Image.open(pictures[ending])
        Image.fromarray(np.asarray(picture.convert("RGB"))).save(path)
    with pytest.raises(UserError, match="does not say how it was drawn.* use the original file"):
        read_records(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"t2i_tpu": 2, "frames": []}', "a newer t2i_tpu wrote its metadata (version 2"),
        ('{"t2i_tpu": 1}', "damaged"),
        ('{"t2i_tpu": 0, "images": [], "common": {}}', "damaged"),
        ('{"t2i_tpu": "new"}', "damaged"),
        ('{"t2i_tpu": 1, "images": [1], "common": {}}', "damaged"),
        ('{"t2i_tpu": 1, "images": [{}], "common": 3}', "damaged"),
        ('{"common": {}, "images": [{"t2i_tpu', "damaged"),
        ("[" * 100_000 + "t2i_tpu", "damaged"),
    ],
)
def test_damaged_or_newer_records_are_errors(tmp_path, text, words):
    info = records_lib.to_png(text)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / "x.png")
    assert str(tmp_path / "x.png") in str(caught.value) and words in str(caught.value)


def test_file_that_is_not_a_picture_is_an_error(tmp_path):
    (tmp_path / "x.png").write_bytes(b"not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    for name in ("x.png", "empty.png", "x.mp4"):
        with pytest.raises(UserError, match=f"{name} is not a picture, or it is damaged"):
            read_records(tmp_path / name)
    for name in ("missing.png", "."):
        with pytest.raises(UserError, match="cannot read .*; check the path"):
            read_records(tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
def test_random_damage_raises_only_user_errors(pictures, tmp_path, ending):
    content, path = pictures[ending].read_bytes(), tmp_path / f"x.{ending}"
    rng = random.Random(0)
    spans = [(0, 600), (len(content) - 1500, len(content)), (0, len(content))]
    for trial in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 10])):
            damaged[rng.randrange(*spans[trial % 3])] = rng.randrange(256)
        if trial % 4 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            read_records(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_jpeg_without_room_for_its_records_warns(emoji_pictures, tmp_path, caplog):
    images = Images(
        emoji_pictures[[0] * 300], [{"prompt": "x", "note": f"{i}" * 100} for i in range(300)]
    )
    images.save(tmp_path / "x.jpg")
    assert "a JPEG has no room for the records of 300 images" in caplog.text
    assert Image.open(tmp_path / "x.jpg").format == "JPEG"
    with pytest.raises(UserError, match="does not say how it was drawn"):
        read_records(tmp_path / "x.jpg")
    for ending in ("png", "webp"):
        images.save(tmp_path / f"x.{ending}", columns=20)
        assert read_records(tmp_path / f"x.{ending}") == images.records


def test_largest_grid_keeps_its_records(tmp_path):
    """The grid has more pixels than Pillow opens by default."""
    records = [{"prompt": f"{seed}" * 50, "seed": seed} for seed in range(4096)]
    picture = Image.new("1", (20_000, 20_000))
    picture_files.save_picture(picture, str(tmp_path / "x.png"), records)
    assert read_records(tmp_path / "x.png") == records
