"""Tests that an interrupted command draws only missing images and never mixes images of two settings."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.errors import UserError
from t2i_tpu.sample import picture_files
from t2i_tpu.sample.image_folder import ImageFolder, name_file

WANTED = [
    (name_file(index, seed), {"prompt": prompt, "seed": seed, "sample": {"steps": 10}})
    for index, prompt in enumerate(["red heart", "☃"])
    for seed in range(50)
]
PIXELS = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3)).astype(np.uint8)


def write(path, items):
    with ImageFolder(str(path)) as folder:
        for index, (name, record) in items:
            folder.write(name, PIXELS[index], record)


def find_complete(path, wanted=WANTED):
    with ImageFolder(str(path), "--output=") as folder:
        return folder.find_complete(wanted)


@pytest.fixture
def half(tmp_path):
    """A folder with every other image."""
    write(tmp_path / "half", list(enumerate(WANTED))[::2])
    return tmp_path / "half"


def test_every_image_is_in_its_own_file(half):
    assert sorted(os.listdir(half)) == sorted(name for name, _ in WANTED[::2])
    for index, (name, _) in list(enumerate(WANTED))[::2]:
        np.testing.assert_array_equal(Image.open(half / name), PIXELS[index])


def test_complete_images_are_found(half, tmp_path):
    assert find_complete(half) == {name for name, _ in WANTED[::2]}
    assert find_complete(half, iter(WANTED[50:])) == {name for name, _ in WANTED[50::2]}
    assert find_complete(tmp_path / "nothing") == set()


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_other_formats_are_found_and_checked(tmp_path, ending):
    wanted = [(name_file(0, seed, ending), record) for seed, (_, record) in enumerate(WANTED[:9])]
    write(tmp_path, enumerate(wanted))
    assert {name for name, _ in wanted} == find_complete(tmp_path, wanted)
    with pytest.raises(UserError, match="was drawn with another seed"):
        find_complete(tmp_path, [(wanted[0][0], {"seed": 1})])
    path = tmp_path / wanted[3][0]
    path.write_bytes(path.read_bytes()[:-100])
    assert len(find_complete(tmp_path, wanted)) == 8


@pytest.mark.parametrize("keep", [0, 100, 200, -30])
def test_truncated_image_is_drawn_again(half, keep):
    path = half / "000_seed4.png"
    path.write_bytes(path.read_bytes()[:keep])
    assert find_complete(half) == {name for name, _ in WANTED[::2]} - {"000_seed4.png"}
    write(half, [(4, WANTED[4])])
    assert len(find_complete(half)) == 50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample": {"steps": 11}}, "another sample.steps (10, not 11)"),
        ({"sample": {}}, "another sample"),
        ({"prompt": "blue heart"}, 'another prompt ("red heart", not "blue heart")'),
        ({"negative_prompt": "x"}, 'another negative_prompt (none, not "x")'),
    ],
)
def test_images_of_other_settings_are_rejected(half, change, words):
    wanted = [(name, record | change) for name, record in WANTED]
    with pytest.raises(UserError) as caught:
        find_complete(half, wanted)
    assert str(caught.value).startswith(f"--output={half}/000_seed0.png was drawn with")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_image_of_the_user_is_rejected(half):
    Image.fromarray(PIXELS[0]).save(half / "000_seed1.png")
    with pytest.raises(UserError, match=r"000_seed1\.png exists, and t2i_tpu did not write it"):
        find_complete(half)
    assert len(find_complete(half, WANTED[50:])) == 25


def test_image_without_a_record_is_rejected(half):
    picture_files.save_picture(Image.fromarray(PIXELS[0]), str(half / "000_seed0.png"))
    with pytest.raises(UserError, match=r"000_seed0\.png does not say how it was drawn"):
        find_complete(half)


def test_image_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for items in (enumerate(WANTED), [(0, WANTED[0])]):
        with pytest.raises(UserError, match="cannot write"):
            write(tmp_path / "file", items)
    with pytest.raises(UserError, match="cannot be a folder"):
        find_complete(tmp_path / "file")


def test_images_are_written_although_the_next_one_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), ImageFolder(str(tmp_path)) as folder:
        for index, (name, record) in enumerate(WANTED):
            if index == 70:
                raise KeyboardInterrupt
            folder.write(name, PIXELS[index], record)
    assert len(find_complete(tmp_path)) == 70


def test_images_do_not_pile_up_if_writing_is_slow(tmp_path, monkeypatch):
    waiting, most = set(), 0

    def write_slowly(picture, path, records):
        time.sleep(0.02)
        waiting.remove(path)

    monkeypatch.setattr(picture_files, "save_picture", write_slowly)
    with ImageFolder(str(tmp_path)) as folder:
        for index in range(200):
            waiting.add(f"{tmp_path}/{index}.png")
            folder.write(f"{index}.png", PIXELS[0], {})
            most = max(most, len(waiting))
    assert not waiting and 30 < most <= 80
