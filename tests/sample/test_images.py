"""Tests that images are saved in every format and that other programs read the same pixels."""

import base64
import io
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from t2i_tpu.errors import UserError
from t2i_tpu.sample import pictures
from t2i_tpu.sample.images import Images, check_grid
from t2i_tpu.sample.picture_files import read_records

SETTINGS = {"workdir": "runs/emoji32", "step": 3300, "sample": {"steps": 8, "guidance_scale": 2.5}}
PROMPTS = ["red heart", 'a "☃" \\ né', "赤いハート"]
PICTURES = ["png", "PNG", "jpg", "jpeg", "webp"]
ANIMATIONS = ["gif", "mp4", "webp"]


def make_records(count):
    return [{"prompt": PROMPTS[i // 4], "seed": 2**32 - 1 - i} | SETTINGS for i in range(count)]


@pytest.fixture
def images(emoji_pictures):
    return Images(emoji_pictures, make_records(12))


@pytest.fixture
def frames(emoji_pictures):
    records = [{"prompt": "x", "seed": 0, "frame": index} | SETTINGS for index in range(5)]
    return Images(emoji_pictures[:5], records, is_animation=True)


def enlarge(pixels, scale):
    return np.kron(pixels, np.ones((scale, scale, 1), np.uint8))


def to_rgb(frame):
    """Convert a frame of a video, whose chroma has half the resolution, with ITU-R BT.709."""
    luma, blue, red = (
        np.frombuffer(bytes(plane), np.uint8)
        .reshape(plane.height, -1)[:, : plane.width]
        .astype(float)
        for plane in frame.planes
    )
    luma = (luma - 16) / 219
    blue, red = (np.kron(chroma - 128, np.ones((2, 2))) / 224 for chroma in (blue, red))
    red, blue = luma + 1.5748 * red, luma + 1.8556 * blue
    green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.clip(np.rint(255 * np.stack([red, green, blue], axis=-1)), 0, 255).astype(np.uint8)


def read_frames(path):
    """Return the frames of an animation and its frames per second, without our code."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            rate = float(container.streams.video[0].average_rate)
            return [to_rgb(each) for each in container.decode(video=0)], rate
    picture = Image.open(path)
    pixels, durations = [], []
    for index in range(picture.n_frames):
        picture.seek(index)
        pixels.append(np.asarray(picture.convert("RGB")))
        durations.append(picture.info["duration"])
    assert picture.info["loop"] == 0
    assert len(set(durations)) == 1
    return pixels, 1000 / durations[0]


def test_images_behave_like_a_sequence(images, emoji_pictures):
    assert len(images) == 12 and repr(images) == "<12 images of 32x32 pixels>"
    np.testing.assert_array_equal(np.asarray(images), emoji_pictures)
    np.testing.assert_array_equal(list(images), emoji_pictures)
    np.testing.assert_array_equal(images[-1], emoji_pictures[11])
    assert np.asarray(images, np.float32).dtype == np.float32
    for index in (slice(1, 9, 3), [1, 4, 7], np.array([1, 4, 7])):
        part = images[index]
        np.testing.assert_array_equal(part, emoji_pictures[[1, 4, 7]])
        assert part.records == [images.records[i] for i in (1, 4, 7)]
    joined = images[:5] + images[5:]
    np.testing.assert_array_equal(joined, emoji_pictures)
    assert joined.records == images.records
    for picture, pixels in zip(images.to_pil(), emoji_pictures, strict=True):
        np.testing.assert_array_equal(picture, pixels)
    with pytest.raises(IndexError):
        images[12]
    with pytest.raises(UserError, match="32x32 pixels and 16x16 pixels in gray"):
        images + Images(np.zeros((1, 16, 16, 1), np.uint8), [{}])


@pytest.mark.parametrize("ending", PICTURES)
def test_grid_shows_every_image(images, tmp_path, ending):
    path = tmp_path / "new" / f"grid.{ending}"
    images.save(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    grid = np.asarray(Image.open(path)).astype(int)
    assert Image.open(path).format == {"jpg": "JPEG", "jpeg": "JPEG"}.get(ending, ending.upper())
    tolerance = 12 if ending.startswith("j") else 0
    rows = []
    for index, image in enumerate(images):
        x = 8 + index % 4 * 72
        errors = [
            np.abs(grid[y : y + 64, x : x + 64] - enlarge(image, 2)).mean()
            for y in range(grid.shape[0] - 64)
        ]
        assert min(errors) <= tolerance / 4
        rows.append(int(np.argmin(errors)))
    # There is a row of four images for each prompt.
    assert rows[0] == rows[3] < rows[4] == rows[7] < rows[8] == rows[11]
    np.testing.assert_array_equal(images.grid(), images._draw("grid", 8))
    assert images.grid(columns=2).height > images.grid().height


@pytest.mark.parametrize("ending", PICTURES)
def test_single_image_keeps_its_size(images, tmp_path, ending):
    path = tmp_path / f"one.{ending}"
    images[3:4].save(path)
    pixels = np.asarray(Image.open(path)).astype(int)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels - images[3]).mean() <= (3 if ending.startswith("j") else 0)
    assert read_records(path) == images.records[3:4]
    images[3:4].save(path, layout="grid")
    assert Image.open(path).height > 64


@pytest.mark.parametrize("ending", ANIMATIONS)
@pytest.mark.parametrize("rate", [12.5, 2])
def test_animation_runs_forward_and_back(frames, tmp_path, ending, rate):
    path = tmp_path / f"walk.{ending}"
    frames.save(path, frames_per_second=rate)
    pixels, stored_rate = read_frames(path)
    assert stored_rate == rate
    assert len(pixels) == 8
    for shown, index in zip(pixels, [0, 1, 2, 3, 4, 3, 2, 1], strict=True):
        expected = enlarge(frames[index], shown.shape[0] // 32)
        # GIF has 256 colors, and MP4 is lossy.
        limit = {"gif": 4, "mp4": 3, "webp": 0}[ending]
        assert np.abs(shown.astype(int) - expected).mean() <= limit
    frames.save(path, boomerang=False)
    assert len(read_frames(path)[0]) == 5


def test_frames_are_drawn_as_a_strip(frames, images, tmp_path):
    frames.save(tmp_path / "strip.png")
    images[:5].save(tmp_path / "also.png", layout="strip")
    for name in ("strip.png", "also.png"):
        pixels = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_array_equal(pixels, enlarge(np.concatenate(list(frames), axis=1), 2))
    frames.save(tmp_path / "strip.webp", layout="strip")
    assert Image.open(tmp_path / "strip.webp").size == (320, 64)


@pytest.mark.parametrize("size", [28, 33, 70, 257])
@pytest.mark.parametrize("channels", [1, 3])
def test_mp4_of_any_size_is_readable(tmp_path, size, channels):
    pixels = np.full((3, size, size, channels), 200, np.uint8)
    Images(pixels, [{}] * 3).save(tmp_path / "x.mp4")
    shown, _ = read_frames(tmp_path / "x.mp4")
    assert len(shown) == 3
    assert shown[0].shape[0] % 2 == 0 and shown[0].shape[0] >= max(256, size)
    assert np.abs(shown[0].astype(int) - 200).max() <= 3


def test_mp4_has_the_colors_of_its_label(tmp_path):
    """The luma and chroma are those of ITU-R BT.709, and the file says so."""
    color = np.array([200, 30, 40])
    Images(np.tile(color.astype(np.uint8), (2, 32, 32, 1)), [{}] * 2).save(tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace == 1 and frame.color_range == 1
    assert np.abs(to_rgb(frame) - color).max() <= 2


def test_folder_has_a_file_for_each_image(images, frames, tmp_path):
    images.save(tmp_path / "v1.0 all")
    names = [f"{i // 4:03d}_seed{2**32 - 1 - i}.png" for i in range(12)]
    assert sorted(each.name for each in (tmp_path / "v1.0 all").iterdir()) == sorted(names)
    for name, image, record in zip(names, images, images.records, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / "v1.0 all" / name), image)
        assert read_records(tmp_path / "v1.0 all" / name) == [record]
    frames.save(tmp_path / "walk")
    paths = [tmp_path / "walk" / f"000_frame{index}.png" for index in range(5)]
    np.testing.assert_array_equal([np.asarray(Image.open(path)) for path in paths], frames)
    # Images that would get the same name are numbered.
    twice = Images(frames.array[:2], [{"prompt": "x", "seed": 7}] * 2)
    twice.save(tmp_path / "twice")
    for index, end in enumerate(["", "_1"]):
        path = tmp_path / "twice" / f"000_seed7{end}.png"
        np.testing.assert_array_equal(Image.open(path), frames[index])


@pytest.mark.parametrize(
    ("key_points", "title"),
    [
        ([["apple", 0], ["pizza", 0]], "apple → pizza, seed 0"),
        ([["dog", 0], ["dog", 1], ["dog", 0]], "dog, seed 0 → 1 → 0"),
        ([["apple", 0], ["pizza", 1]], "apple, seed 0 → pizza, seed 1"),
        ([[[["a cat", 1.0], ["a hat", 0.5]], 3], ["dog", 3]], "a cat:1 a hat:0.5 → dog, seed 3"),
    ],
)
def test_sections_of_frames_name_the_key_points(emoji_pictures, key_points, title):
    records = [{"prompt": key_points[0][0], "seed": 0, "frame": i} for i in range(4)]
    records = [record | {"key_points": key_points} for record in records]
    walk = Images(emoji_pictures[:4], records, is_animation=True)
    cells = [(image, f"frame {index}") for index, image in enumerate(walk)]
    np.testing.assert_array_equal(walk.grid(), pictures.draw_grid([(title, cells)]))


@pytest.mark.parametrize("name", ["x.bmp", "x.tiff", "x.avi", "x.mov", "x.pdf", "x.avif"])
def test_unknown_format_is_an_error(images, tmp_path, name):
    with pytest.raises(UserError, match=r"is not supported; use \.png, \.jpg, .* or a folder"):
        images.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("x.png", {"layout": "row"}, "layout='row': it must be one of grid, strip"),
        ("x.png", {"columns": 0}, "columns=0: it must be at least 1"),
        ("x.gif", {"frames_per_second": 0}, "frames_per_second=0: it must be from 0.1 to 60"),
        ("x.mp4", {"frames_per_second": float("nan")}, "frames_per_second=nan: it must be"),
        ("mine.png", {}, "t2i_tpu did not write it"),
        ("mine.png/x.png", {}, "is a file"),
        ("", {}, "is a folder; add the name of a file"),
    ],
)
def test_bad_arguments_are_errors(images, tmp_path, name, options, words):
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError) as caught:
        images.save(tmp_path / (name or "folder.png"), **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(8, 8), (32, 48), (100, 70)])
def test_grid_is_measured_before_it_is_drawn(tmp_path, size):
    title, long = "runs/x, step 1", "a long title " * 30
    records = [
        {"prompt": long if i < 10 else "x", "workdir": "runs/x", "step": 1} for i in range(13)
    ]
    grid = Images(np.zeros((13, *size, 3), np.uint8), records).grid(columns=4)
    sections = [(title, 0), (long, 10), ("x", 3)]
    assert pictures.measure_grid(sections, *size, columns=4) == grid.size
    check_grid("x.png", [("x", 1)] * 200, 32, 32)
    check_grid("x.webp", [("x", 8)] * 140, 32, 32)
    with pytest.raises(UserError, match=r"at most 16383 pixels per side.* use \.png, or a folder"):
        check_grid("x.webp", [("x", 8)] * 160, 32, 32)


def test_too_many_or_no_images_are_errors(tmp_path):
    many = Images(np.zeros((4097, 1, 1, 3), np.uint8), [{}] * 4097)
    with pytest.raises(
        UserError, match="room for 4096 images, not for 4097; save them into a folder"
    ):
        many.save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"at most 16383 pixels per side.*; use \.png"):
        many[:300].save(tmp_path / "x.webp", layout="strip")
    with pytest.raises(UserError, match="no images"):
        many[:0].save(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_mp4_without_its_package_is_an_error(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[video\]', or use \.gif"):
        images.save(tmp_path / "x.mp4")


def test_home_folder_is_expanded(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images.save("~/a/x.png")
    assert (tmp_path / "a" / "x.png").exists()
    assert read_records("~/a/x.png") == images.records


def test_notebook_shows_a_grid_or_an_animation(images, frames):
    shown = Image.open(io.BytesIO(images._repr_png_()))
    np.testing.assert_array_equal(shown, images.grid())
    assert images._repr_html_() is None
    source = re.search(r'src="data:image/gif;base64,([^"]+)"', frames._repr_html_())[1]
    assert Image.open(io.BytesIO(base64.b64decode(source))).n_frames == 8
    many = Images(np.zeros((5000, 8, 8, 1), np.uint8), [{"prompt": "x", "seed": 0}] * 5000)
    assert Image.open(io.BytesIO(many._repr_png_())).height < 1000
    assert images[:0]._repr_png_() is None and repr(images[:0]) == "<0 images of 32x32 pixels>"


def test_import_is_fast_and_needs_no_tensorflow():
    code = (
        "import sys, t2i_tpu.sample.images, t2i_tpu.sample.inputs; "
        "assert not {'tensorflow', 'keras', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
