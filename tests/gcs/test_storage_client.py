"""Tests that google-cloud-storage (extra gcs) works with the harness."""

import sys

import pytest

from tests.gcs.harness import Faults

pytest.importorskip("google.cloud.storage", reason="the extra gcs is not installed")

PROGRAM = """
import hashlib, os, sys
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

content = b"0123456789" * 200_000
bucket = storage.Client().bucket(sys.argv[1])
retry = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.1)  # seconds
for index in range(6):
    bucket.blob(f"a/{index}").upload_from_string(content, retry=retry)
large = bucket.blob("large", chunk_size=1 << 18)  # a resumable upload in chunks
large.upload_from_string(content, retry=retry)
names = [blob.name for blob in bucket.client.list_blobs(bucket, prefix="a/", retry=retry)]
assert names == [f"a/{index}" for index in range(6)], names
for name in [*names, "large"]:
    assert bucket.blob(name).download_as_bytes(retry=retry) == content, name
bucket.delete_blobs([bucket.blob(name) for name in names], retry=retry)
"""


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_upload_list_download_delete(gcs, bucket, rate):
    with gcs.inject_faults(Faults(rate)):
        result = gcs.run([sys.executable, "-c", PROGRAM, bucket.removeprefix("gs://")])
        assert result.returncode == 0, result.stderr
        assert bool(gcs.report()["faults"]) == bool(rate)
    assert gcs.files(bucket) == {"large": b"0123456789" * 200_000}
