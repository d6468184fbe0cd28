"""Tests that patterns of files are expanded, and that wrong ones are explained."""

import sys

import pytest

from t2i_tpu.data.sources.patterns import expand_pattern
from t2i_tpu.errors import UserError


@pytest.fixture
def tars(tmp_path):
    for name in ("0.tar", "1.tar", "[2].tar", "{3}.tar"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tar").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.tar", ["0.tar", "1.tar", "[2].tar", "{3}.tar"]),
        ("{0..1}.tar", ["0.tar", "1.tar"]),
        ("[2].tar", ["[2].tar"]),
        ("{3}.tar", ["{3}.tar"]),
    ],
)
def test_patterns_are_expanded(tars, pattern, names):
    assert expand_pattern(f"{tars}/{pattern}", "webdataset") == [f"{tars}/{name}" for name in names]


@pytest.mark.parametrize("folder", ["IN [v2]", "a,{b,c}", "*", "[0-9]?"])
@pytest.mark.parametrize("pattern", ["*.tar", "{0..1}.tar", "**/[01].tar"])
def test_folders_that_exist_are_no_patterns(tmp_path, folder, pattern):
    for name in (folder, "2x", "IN v"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.tar").touch()
    expected = [f"{tmp_path}/{folder}/{index}.tar" for index in range(2)]
    assert expand_pattern(f"{tmp_path}/{folder}/{pattern}", "webdataset") == expected


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{0..4}.tar", "2.tar' does not exist"),
        ("{0..1.tar", "a brace is not closed"),
        ("folder.tar", "is a folder; name its files"),
        ("*.zip", "no file matches"),
    ],
)
def test_wrong_patterns_are_explained(tars, pattern, words):
    with pytest.raises(UserError, match=words):
        expand_pattern(f"{tars}/{pattern}", "webdataset")


def test_only_patterns_with_braces_need_braceexpand(tars, monkeypatch):
    monkeypatch.setitem(sys.modules, "braceexpand", None)  # as if it were not installed
    assert expand_pattern(f"{tars}/0.tar", "webdataset") == [f"{tars}/0.tar"]
    assert len(expand_pattern(f"{tars}/*.tar", "webdataset")) == 4
    with pytest.raises(UserError, match="needs braceexpand"):
        expand_pattern(f"{tars}/{{0..1}}.tar", "webdataset")
