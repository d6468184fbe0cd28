"""Files and folders that are not the package's own are never replaced."""

import os

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.sample import picture_files, pictures
from t2i_tpu.sample.images import Images
from t2i_tpu.storage import outputs
from tests.assertions import assert_mentions

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def get_error(check, path):
    """Return the message of the UserError that a check raises, or None."""
    try:
        check(str(path), "--output=")
    except UserError as error:
        assert str(error).startswith(f"--output={path}") and "\n" not in str(error)
        return str(error)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with one file or folder of every kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_bytes(b"a picture of the user's")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to_mine.png").symlink_to("mine.png")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.png", "t2i_tpu did not write it"),
        ("to_mine.png", "t2i_tpu did not write it"),
        ("folder.png", "is a folder"),
        ("mine.png/x.png", "is a file"),
        ("mine.png/deep/x.png", "is a file"),
        ("dangling/x.png", "is a link to 'nothing', which does not exist"),
        ("loop/x.png", "is a link"),
        ("pipe.png", "not an ordinary file"),
        ("/dev/null", "not an ordinary file"),
    ],
)
def test_file_that_is_not_ours_is_not_replaced(folder, name, words):
    assert words in get_error(outputs.check_file, name)


@pytest.mark.parametrize("name", ["new.png", "new/deep/x.png", "empty.png", "dangling", "[a] b\\c"])
def test_new_or_empty_file_may_be_written(folder, name):
    assert get_error(outputs.check_file, name) is None
    outputs.write_file(name, b"t2i_tpu")
    assert get_error(outputs.check_file, name) is None


@pytest.mark.parametrize(
    "name", ["grid.png", "grid.PNG", "grid.jpg", "grid.jpeg", "grid.webp", "x.gif", "x.mp4"]
)
@pytest.mark.parametrize("num_images", [1, 60])
def test_picture_may_be_replaced(folder, name, num_images):
    """The mark is near the start or the end, however large the metadata and the picture are."""
    records = [
        {"prompt": "red heart", "seed": seed, "note": f"{seed}" * 40} for seed in range(num_images)
    ]
    images = Images(np.stack([NOISE] * num_images), records)
    for _ in range(2):
        images.save(name)
    assert get_error(outputs.check_file, name) is None
    content = (folder / name).read_bytes()
    assert outputs.MARK.encode() in content[:1024] + content[-1024:]
    (folder / name).write_bytes(content.replace(b"t2i_tpu", b"another"))
    assert "did not write it" in get_error(outputs.check_file, name)


def test_link_to_a_picture_is_kept(folder):
    picture_files.save_picture(pictures.enlarge(NOISE), "picture.png")
    (folder / "link.png").symlink_to("picture.png")
    picture_files.save_picture(pictures.enlarge(255 - NOISE), "link.png")
    assert (folder / "link.png").is_symlink()
    assert not (folder / "picture.png").is_symlink()
    np.testing.assert_array_equal(picture_files.read_picture("picture.png"), 255 - NOISE)


@pytest.mark.parametrize(
    "name", ["mine.png", "mine.png/x", "dangling", "dangling/x", "loop", "pipe.png"]
)
def test_what_cannot_be_a_folder_is_named(folder, name):
    assert_mentions(get_error(outputs.check_folder, name), ["cannot be a folder"])


@pytest.mark.parametrize("name", [".", "folder.png", "new", "new/deep", str(os.sep)])
def test_folder_is_accepted(folder, name):
    assert get_error(outputs.check_folder, name) is None


def test_only_files_that_will_be_written_are_checked(folder):
    def check(will_write):
        return get_error(lambda *args: outputs.check_files(args[0], will_write, args[1]), ".")

    assert check(lambda name: name == "new.png") is None
    with pytest.raises(UserError, match=r"--output=\./mine\.png exists"):
        outputs.check_files(".", lambda name: name == "mine.png", "--output=")


def test_hidden_files_do_not_fill_a_folder(tmp_path):
    for name in (".DS_Store", "._a", ".ipynb_checkpoints", "lost+found", "Thumbs.db"):
        (tmp_path / name).touch()
    assert outputs.list_visible(str(tmp_path)) == []
    for name in "abcde":
        (tmp_path / name).touch()
    assert outputs.describe_names(outputs.list_visible(str(tmp_path))) == "a, b, c and 2 more"
