"""Tests that a folder gets its name when it is complete, or not at all."""

import os

import pytest

from t2i_tpu.storage import folders


def has_content(folder):
    return os.path.exists(os.path.join(folder, "content"))


def write_content(folder, text):
    with open(os.path.join(folder, "content"), "w") as file:
        file.write(text)


def test_folder_appears_when_it_is_complete(tmp_path):
    final = tmp_path / "cache" / "folder"
    with folders.create_atomically(str(final), has_content) as temporary:
        write_content(temporary, "x")
        assert not final.exists()
    assert (final / "content").read_text() == "x"
    assert os.listdir(tmp_path / "cache") == ["folder"]


def test_error_leaves_no_folder_behind(tmp_path):
    with (
        pytest.raises(ValueError),
        folders.create_atomically(str(tmp_path / "folder"), has_content) as temporary,
    ):
        write_content(temporary, "x")
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_first_process_wins(tmp_path):
    final = str(tmp_path / "folder")
    with folders.create_atomically(final, has_content) as temporary:
        write_content(temporary, "second")
        with folders.create_atomically(final, has_content) as other:
            write_content(other, "first")
    assert (tmp_path / "folder" / "content").read_text() == "first"
    assert os.listdir(tmp_path) == ["folder"]


def test_incomplete_folder_in_the_way_is_an_error(tmp_path):
    (tmp_path / "folder" / "other").mkdir(parents=True)
    with (
        pytest.raises(OSError),
        folders.create_atomically(str(tmp_path / "folder"), has_content) as temporary,
    ):
        write_content(temporary, "x")
    assert os.listdir(tmp_path) == ["folder"]
