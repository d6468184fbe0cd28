"""Writes files, local or gs://, which get their name only when they are complete."""

import contextlib
import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.errors import get_first_line
from t2i_tpu.storage import gcs, gcs_client, paths

_BLOCK_BYTES = 1 << 22
_FIRST_BLOCK_BYTES = 1 << 18
_LOCAL_REMEDIES = {
    "Permission denied": "get permission to write there, or use another folder",
    "Read-only file system": "use another folder",
    "No space left on device": "free some space, or use another disk",
    "Disk quota exceeded": "free some space, or use another disk",
    "File too large": "raise the limit on file sizes (ulimit -f), or use another disk",
}


@contextlib.contextmanager
def write_atomically(path: str, shared: bool = False) -> Iterator[str]:
    """Yield a temporary path to write to, and rename it to `path` when the block ends.

    Args:
      path: path of the file. An existing file is replaced. A link is kept: the file that it leads to
        is replaced.
      shared: whether another process may write the same file at the same time.

    After any error, the temporary file is removed if possible.

    Raises:
      tf.errors.OpError: the file cannot be written.
    """
    if not paths.is_remote(path) and os.path.islink(path):
        path = os.path.realpath(path)
    unique = f".{uuid.uuid4().hex}" if shared else ""
    partial = f"{path}{unique}{paths.PARTIAL_SUFFIX}"
    try:
        yield partial
        tf.io.gfile.rename(partial, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(partial)
        raise


def write(path: str, content: str | bytes, shared: bool = False) -> None:
    """Write or replace a file.

    Args:
      path: path of the file.
      content: the new content; text is encoded in UTF-8.
      shared: whether another process may write the same file at the same time.

    Raises:
      tf.errors.OpError: the file cannot be written.
    """
    with write_atomically(path, shared) as partial, tf.io.gfile.GFile(partial, "wb") as file:
        file.write(content)


def list_names(folder: str) -> list[str]:
    """Return the names of the files and folders in a folder in sorted order; [] if it does not exist.

    Unlike a pattern, this works whatever characters the folder's name has.

    Args:
      folder: local or gs://.

    Raises:
      tf.errors.OpError: the folder cannot be read.
    """
    try:
        names = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    except tf.errors.NotFoundError:
        return []
    return sorted(names - {""})


def remove_partial(folder: str) -> None:
    """Remove the unfinished files in a folder that killed processes have left there.

    Raises:
      tf.errors.OpError: a file cannot be removed.
    """
    for name in filter(paths.is_partial, list_names(folder)):
        with contextlib.suppress(tf.errors.NotFoundError):  # its writer may have just finished it
            tf.io.gfile.remove(posixpath.join(folder, name))


def measure(path: str) -> tuple[int, str]:
    """Return a file's size in bytes and its SHA-256 in hex.

    Raises:
      tf.errors.OpError: the file cannot be read.
    """
    num_bytes, digest = 0, hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            num_bytes += len(block)
            digest.update(block)
    return num_bytes, digest.hexdigest()


def read_blocks(path: str, num_bytes: int) -> Iterator[bytes]:
    """Yield the content of a file in blocks. The first block is small, and later ones are larger.

    A reader that needs only the beginning of a file on gs:// therefore does not download all of it.

    Args:
      path: path of the file.
      num_bytes: the maximum number of bytes to read.

    Raises:
      tf.errors.OpError: the file cannot be read.
    """
    bucket, name = gcs_client.open_bucket(path), gcs_client.split_address(path)[1]
    position, block_bytes = 0, _FIRST_BLOCK_BYTES
    with tf.io.gfile.GFile(path, "rb") as file:
        while position < num_bytes:
            size, block = min(block_bytes, num_bytes - position), None
            if bucket:
                block = gcs_client.read_range(bucket, name, position, size)
            if block is None:
                file.seek(position)
                block = file.read(size)
            if not block:
                return
            yield block
            position += len(block)
            block_bytes = min(2 * block_bytes, _BLOCK_BYTES)


def explain_error(path: str, error: tf.errors.OpError) -> str:
    """Return one line that says why TensorFlow could not read or write a path, and what to do.

    Args:
      path: the path, local or gs://.
      error: the error that TensorFlow raised.
    """
    if paths.is_remote(path):
        return gcs.explain_error(error, path)
    return add_remedy(get_first_line(error).rpartition("; ")[2])


def add_remedy(reason: str) -> str:
    """Return the reason of an error about a local file, in the system's words, and what to do."""
    return f"{reason}; {_LOCAL_REMEDIES.get(reason, 'check the path')}"
