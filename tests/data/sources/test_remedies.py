"""Errors about files of other kinds name what to do with them."""

import re

import pytest

from t2i_tpu.data.prepare.images import open_image
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.sources.folder.folder import FolderSource
from t2i_tpu.data.sources.patterns import expand_pattern
from t2i_tpu.data.sources.tables.parquet_file import open_parquet
from t2i_tpu.data.sources.tar.webdataset import WebdatasetSource
from t2i_tpu.errors import UserError
from tests.data.sources.folders import read_captions, read_items, write_files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data-00000-of-00001.arrow": "", "state.json": "{}"}, "to_parquet"),
        ({"0.png": None, "images.zip": ""}, "; unpack images.zip"),
        ({"0.png": None, "metadata.csv.gz": ""}, "; unpack metadata.csv.gz"),
        ({"0.png": None, "list.xlsx": ""}, "; save list.xlsx as metadata.csv"),
        ({"0.png": None, "0.json": "{}", "1.json": "{}"}, "if the .json files hold the captions"),
        ({"manifest.json": "{}", "0.tfrecord": ""}, "data.source=shards:FOLDER"),
        ({"0.png": None, "metadata.csv": "0.png,red\n"}, "no heading, add file_name,text above"),
    ],
)
def test_other_kinds_of_files_in_a_folder_are_explained(tmp_path, files, words):
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=re.escape(words)):
        read_items(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("0.tar", "use --source=webdataset:"),
        ("0.parquet", "use --source=parquet:"),
        ("metadata.csv", "name the folder in which the file is"),
    ],
)
def test_file_in_place_of_a_folder_is_explained(tmp_path, name, words):
    write_files(tmp_path, {name: ""})
    with pytest.raises(UserError, match=words):
        list(FolderSource(f"{tmp_path}/{name}").list_units())


@pytest.mark.parametrize("pattern", ["", "/", "/*.parquet"])
def test_pattern_of_files_in_subfolders_is_suggested(tmp_path, pattern):
    write_files(tmp_path, {"data/train-0.parquet": "", "README.md": ""})
    with pytest.raises(UserError, match=re.escape(f"--source=parquet:{tmp_path}/*/*.parquet")):
        expand_pattern(f"{tmp_path}{pattern}", "parquet")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("0.parquet", POINTER, "run git lfs pull"),
        ("0.arrow", "ARROW1", "save it with to_parquet"),
        ("0.csv", "image,text\n", "use --source=folder:FOLDER"),
        ("1.parquet", "PAR1", "copy or download it again"),
    ],
)
def test_files_that_are_not_parquet_are_explained(tmp_path, name, content, words):
    pytest.importorskip("pyarrow")
    write_files(tmp_path, {name: content})
    with pytest.raises(UserError, match=words), open_parquet(f"{tmp_path}/{name}"):
        pass


def test_pointers_of_git_lfs_are_counted_as_such(tmp_path):
    with pytest.raises(Rejected, match="git_lfs_pointer"):
        open_image(POINTER.encode())
    write_files(tmp_path, {"0.tar": POINTER})
    (unit,) = (source := WebdatasetSource(f"{tmp_path}/*.tar")).list_units()
    assert [item.problem for item in source.read(unit)] == ["git_lfs_pointer"]


def test_names_of_rows_that_r_writes_are_no_column(tmp_path):
    write_files(tmp_path, {
        "a.png": None, "b.png": None,
        "metadata.csv": '"file_name","text"\n"1","a.png","red, dark"\n"2","b.png","blue"\n',
    })  # fmt: skip
    assert read_captions(tmp_path) == {"a.png": "red, dark", "b.png": "blue"}
