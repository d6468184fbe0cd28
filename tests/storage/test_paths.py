"""Tests the normal form of paths from users, and the errors about paths that cannot be used."""

import os
import subprocess
import sys

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

HOME = os.path.expanduser("~")
NORMAL_FORMS = {
    "runs/a": "runs/a",
    "runs/a/": "runs/a",
    "runs//a///b": "runs/a/b",
    "./runs/./a": "runs/a",
    "..//a": "../a",
    "a/../b": "a/../b",  # a may be a link
    "//data/x": "/data/x",
    ".": ".",
    "~/runs/": f"{HOME}/runs",
    "file:///data/x/": "/data/x",
    "file://localhost/data": "/data",
    "C:\\runs": "C:\\runs",
    "runs/[a] b\\c ?*'\"": "runs/[a] b\\c ?*'\"",
    "läufe/写真": "läufe/写真",
    "./~a": "./~a",
    "./gs:/a": "./gs:/a",
    "gs://bucket": "gs://bucket",
    "gs://bucket/": "gs://bucket",
    "gs://bucket//a/./b/": "gs://bucket/a/b",
    "gs://bucket/a/../b": "gs://bucket/b",
    "GS://bucket/a": "gs://bucket/a",
    "gs:///bucket/a": "gs://bucket/a",
}  # fmt: skip
MISTAKES = {
    "": "is empty",
    "  ": "is empty",
    "a\nb": "line break",
    "a\rb": "line break",
    "a\tb": "control character",
    "a\udcff": "not UTF-8",
    "gs:/bucket/run": "did you mean gs://bucket/run?",
    "gs:bucket/run": "did you mean gs://bucket/run?",
    "gcs://bucket/run": "did you mean gs://bucket/run?",
    "https://storage.googleapis.com/bucket/run": "did you mean gs://bucket/run?",
    "https://console.cloud.google.com/storage/browser/bucket/run": "did you mean gs://bucket/run?",
    "gs://": "not the name of a bucket",
    "gs:///": "not the name of a bucket",
    "gs://$BUCKET/run": "not the name of a bucket",
    "gs://Bucket/run": "not the name of a bucket",
    "s3://bucket/run": "copy the data",
    "s3:/bucket/run": "copy the data",
    "hdfs://host/run": "copy the data",
    "az://container/run": "copy the data",
    "hf://datasets/a/b": "hf download",
    "https://example.org/a.parquet": "download the data",
    "file://data/x": "file:///data",
    "shards:gs://bucket/x": "at most one scheme",
    "~no_such_user/x": "no user 'no_such_user'",
}


@pytest.mark.parametrize("text", NORMAL_FORMS)
def test_a_path_has_one_normal_form(text):
    path = paths.parse_path(text, "--workdir=", is_output=True)
    assert path == NORMAL_FORMS[text]
    assert paths.parse_path(path, "--workdir=", is_output=True) == path
    assert paths.is_remote(path) == path.startswith("gs://")


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_flag_and_the_remedy(text):
    with pytest.raises(UserError) as error:
        paths.parse_path(text, "--workdir=")
    message = str(error.value)
    assert message.startswith("--workdir=") and MISTAKES[text] in message
    assert message.isprintable()


@pytest.mark.parametrize("text", ["/", "//", "~", "~/", "file:///", HOME, "/tmp/.."])
def test_the_root_and_the_home_folder_are_rejected_as_outputs(text):
    with pytest.raises(UserError, match="choose a folder inside it"):
        paths.parse_path(text, "--output=", is_output=True)
    assert os.path.isdir(paths.parse_path(text, "--source="))


def test_a_folder_whose_name_starts_with_a_tilde_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~old").mkdir()
    assert paths.parse_path("~old/x", "--source=") == "~old/x"


def test_the_path_in_a_source_is_normalized():
    normal_forms = {
        "shards:DATA/": "shards:DATA",
        "folder:~/photos": f"folder:{HOME}/photos",
        "webdataset:gs://bucket//x-{00..10}.tar": "webdataset:gs://bucket/x-{00..10}.tar",
        "parquet:./a/[0-9]*.parquet": "parquet:a/[0-9]*.parquet",
        "tfds:mnist": "tfds:mnist",
        "tfds:mnist@~/tfds/": f"tfds:mnist@{HOME}/tfds",
        "embedded:emoji32": "embedded:emoji32",
        "gs://bucket/x": "gs://bucket/x",
        "shards:": "shards:",
        "photos": "photos",
    }
    parsed = {text: paths.parse_source(text, "--source=") for text in normal_forms}
    assert parsed == normal_forms
    with pytest.raises(UserError, match=r"^--source=parquet:hf://a: hf:// is not supported"):
        paths.parse_source("parquet:hf://a", "--source=")


def test_the_module_does_not_import_tensorflow():
    code = "import sys, t2i_tpu.storage.paths; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_tilde_without_a_home_folder_is_an_error(monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match="--output=~/x: there is no home folder; set HOME"):
        paths.parse_path("~/x", "--output=")
