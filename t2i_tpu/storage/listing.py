"""Lists the files of a folder, local or gs://, with their sizes.

On gs://, a listing takes one request for each 1,000 files if google-cloud-storage (extra gcs) is
installed. TensorFlow's own client lists names only, and needs one more request for each file.
"""

import dataclasses
import os
import posixpath
from collections.abc import Collection, Iterator
from concurrent import futures
from typing import TYPE_CHECKING

import tensorflow as tf

from t2i_tpu.storage import gcs_client, paths

if TYPE_CHECKING:
    from google.cloud.storage import Bucket

# Number of requests at the same time if each file needs one.
_THREADS = 32
_FIELDS = "items(name,size,generation,crc32c),prefixes,nextPageToken"


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """What a listing says about a file.

    Attributes:
      num_bytes: size of the file.
      version: a string that changes when the file is written again. It is the generation of an object
        on gs://, or the time of the last change. Versions of one file are comparable only if the
        same client listed it.
      crc32c: the CRC32C of the content in base64, or "" if only reading the file would give it.
    """

    num_bytes: int
    version: str
    crc32c: str = ""


def list_files(folder: str, recursive: bool = False) -> dict[str, FileInfo]:
    """List the files of a folder.

    Args:
      folder: local or gs://.
      recursive: whether to include the files of all subfolders.

    Returns:
      The files by their names relative to the folder, with "/" as separator, in sorted order. The
      result is empty if the folder does not exist.

    Raises:
      OSError: a local folder cannot be read.
      tf.errors.OpError: gs:// cannot be read.
    """
    found = _list_at_once(folder, recursive)
    if found is None:
        found = _list_with_tensorflow(folder, recursive)
    return dict(sorted(found.items()))


def find_files(folder: str, names: Collection[str]) -> dict[str, FileInfo]:
    """Return the infos of those files of a folder that exist.

    If possible, the folder is listed, which is faster than a look at each file.

    Args:
      folder: local or gs://.
      names: the names of the files relative to the folder.

    Raises:
      tf.errors.OpError: gs:// cannot be read.
    """
    listings = {}
    for parent in {posixpath.dirname(name) for name in names}:
        path = posixpath.join(folder, parent) if parent else folder
        try:
            files = _list_at_once(path)
        except PermissionError:  # the files may be readable even if the folder cannot be listed
            files = None
        if files is None:
            return _stat_files(folder, names)
        listings[parent] = files
    infos = {
        name: listings[posixpath.dirname(name)].get(posixpath.basename(name)) for name in names
    }
    return {name: info for name, info in infos.items() if info}


def list_bucket(bucket: "Bucket", prefix: str, recursive: bool) -> dict[str, FileInfo]:
    """List the objects whose names begin with a prefix, which the returned names omit.

    Args:
      bucket: a bucket of google-cloud-storage.
      prefix: "" or a text that ends in "/".
      recursive: whether to include objects whose names contain another "/".

    Raises:
      google.api_core.exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError: the bucket
        cannot be listed.
    """
    delimiter = None if recursive else "/"
    blobs = bucket.client.list_blobs(bucket, prefix=prefix, delimiter=delimiter, fields=_FIELDS)
    return {
        blob.name.removeprefix(prefix): FileInfo(blob.size, str(blob.generation), blob.crc32c or "")
        for blob in blobs
        if not blob.name.endswith("/")  # the placeholder of a folder
    }


def stat_local_file(path: str) -> FileInfo | None:
    """Return the info of a local file, or None if it does not exist or its path is invalid."""
    try:
        return _make_info(os.stat(path))
    except (OSError, ValueError):  # ValueError: the name contains "\0"
        return None


def _list_at_once(folder: str, recursive: bool = False) -> dict[str, FileInfo] | None:
    """List a folder without a request for each file, or return None if that is not possible."""
    if paths.is_remote(folder):
        return _list_with_google(folder, recursive)
    return dict(_iter_local(folder, recursive))


def _make_info(stat: os.stat_result) -> FileInfo:
    return FileInfo(stat.st_size, str(stat.st_mtime_ns))


def _iter_local(folder: str, recursive: bool, prefix: str = "") -> Iterator[tuple[str, FileInfo]]:
    """Yield the name and the info of each file of a local folder. Links are followed to files only."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=not recursive):
                if recursive:
                    yield from _iter_local(entry.path, True, f"{prefix}{entry.name}/")
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:  # a broken link, or a file that was just removed
                continue
            if entry.is_file():
                yield prefix + entry.name, _make_info(stat)


def _list_with_google(folder: str, recursive: bool) -> dict[str, FileInfo] | None:
    """List a folder on gs:// with google-cloud-storage, or return None if that is not possible."""
    bucket = gcs_client.open_bucket(folder)
    if not bucket:
        return None
    path = gcs_client.split_address(folder)[1]
    try:
        return list_bucket(bucket, f"{path}/" if path else "", recursive)
    except gcs_client.get_errors():
        return None


def _list_with_tensorflow(folder: str, recursive: bool) -> dict[str, FileInfo]:
    """List a folder with TensorFlow's client, which needs one request for each file."""
    try:
        names = list(_iter_names(folder, recursive))
    except tf.errors.NotFoundError:
        return {}
    return _stat_files(folder, names)


def _stat_files(folder: str, names: Collection[str]) -> dict[str, FileInfo]:
    """Return the infos of those files that exist, with one request for each file."""

    def stat(name):
        try:
            found = tf.io.gfile.stat(posixpath.join(folder, name))
        except (tf.errors.NotFoundError, ValueError):  # ValueError: the name contains "\0"
            return None
        if found.is_directory:
            return None
        return FileInfo(found.length, str(found.mtime_nsec))

    with futures.ThreadPoolExecutor(_THREADS) as pool:
        infos = pool.map(stat, names)
        return {name: info for name, info in zip(names, infos, strict=True) if info}


def _iter_names(folder: str, recursive: bool) -> Iterator[str]:
    """Yield the names of the files of a folder, as TensorFlow lists them."""
    for name in tf.io.gfile.listdir(folder):
        if not name.endswith("/"):
            yield name
        elif recursive and name != "/":
            for inner in _iter_names(posixpath.join(folder, name), True):
                yield name + inner
