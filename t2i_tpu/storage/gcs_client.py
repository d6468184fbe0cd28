"""Opens buckets with google-cloud-storage, if the extra gcs is installed.

It lists a folder with the sizes of its files and reads a part of a file, each with one request.
TensorFlow's own client needs a request for each file, and reads 64 MB to return a few bytes.
"""

import functools
import os
from typing import TYPE_CHECKING

from t2i_tpu.storage import paths

if TYPE_CHECKING:
    from google.cloud.storage import Bucket, Client


def open_bucket(address: str) -> "Bucket | None":
    """Return the bucket of a gs:// address.

    Returns:
      The bucket, or None if the address is not on gs://, the library is not installed, or there are
      no credentials. TensorFlow's client may still have access, for example to a public bucket.
    """
    if not paths.is_remote(address):
        return None
    client = _open_client(os.getpid())
    return client and client.bucket(split_address(address)[0])


def read_range(bucket: "Bucket", name: str, start: int, num_bytes: int) -> bytes | None:
    """Return a part of an object, or None if the library cannot read it."""
    try:
        return bucket.blob(name).download_as_bytes(
            start=start, end=start + num_bytes - 1, checksum=None
        )
    except get_errors():
        return None


def split_address(address: str) -> tuple[str, str]:
    """Return BUCKET and PATH of gs://BUCKET/PATH, without slashes at the end."""
    bucket, _, path = address.removeprefix("gs://").partition("/")
    return bucket, path.rstrip("/")


def get_errors() -> tuple[type[Exception], ...]:
    """Return the classes of errors that the library raises if it cannot use a bucket."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return GoogleAPIError, GoogleAuthError, OSError, ValueError


@functools.lru_cache(maxsize=1)
def _open_client(pid: int) -> "Client | None":
    """Return a client of this process. A forked process must not share its parent's connections."""
    try:
        from google.cloud import storage
    except ImportError:
        return None
    try:
        return storage.Client()
    except get_errors():
        return None
