"""Tests the folder of the cache, which an environment variable may name."""

import os

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage.cache import get_cache_folder


@pytest.mark.parametrize(
    ("value", "folder"),
    [("", "~/.cache/t2i_tpu"), ("~/c/", "~/c"), ("/data//cache", "/data/cache")],
)
def test_cache_is_a_local_folder(monkeypatch, value, folder):
    monkeypatch.setenv("T2I_TPU_CACHE", value)
    assert get_cache_folder() == os.path.expanduser(folder)


@pytest.mark.parametrize("value", ["gs://bucket/cache", "gs:/bucket", "s3://bucket", "/", " "])
def test_other_cache_is_rejected(monkeypatch, value):
    monkeypatch.setenv("T2I_TPU_CACHE", value)
    with pytest.raises(UserError, match="^T2I_TPU_CACHE="):
        get_cache_folder()
