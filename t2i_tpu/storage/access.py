"""Checks whether a folder, local or gs://, can be written, and measures its size."""

import contextlib
import os
import posixpath
import shutil
import uuid

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths

# The content must need a block on the disk: some file systems store a small file in its inode.
_PROBE = b"t2i_tpu checks whether it can write here\n" * 100


def check_writable(folder: str) -> None:
    """Check that a folder can be written, by writing, reading and removing a small file.

    If the folder does not exist, the file is written into the nearest folder above it.

    Args:
      folder: the folder, local or gs://.

    Raises:
      UserError: one of the three steps failed. The message says why and what to do.
    """
    path = posixpath.join(
        _find_nearest_existing(folder), f".probe-{uuid.uuid4().hex}{paths.PARTIAL_SUFFIX}"
    )
    probe_exists = False
    try:
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(_PROBE)
        probe_exists = True
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        tf.io.gfile.remove(path)
    except tf.errors.OpError as error:
        # Removing the file may fail too, for the same reason.
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(path)
            probe_exists = False
        remains = f" (and {path} is left there)" if probe_exists else ""
        raise UserError(
            f"{folder} cannot be written: {files.explain_error(path, error)}{remains}"
        ) from error
    if content != _PROBE:
        raise UserError(
            f"{folder} returned different bytes from those written to it; use another folder"
        )


def free_bytes(folder: str) -> int | None:
    """Return the free space on the disk of a folder, which need not exist yet; None for gs://."""
    return (
        None if paths.is_remote(folder) else shutil.disk_usage(_find_nearest_existing(folder)).free
    )


def used_bytes(folder: str) -> int:
    """Return the total size in bytes of the files in a local folder, without its subfolders.

    The result is 0 if the folder does not exist or is on gs://.
    """
    if paths.is_remote(folder) or not os.path.isdir(folder):
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())


def _find_nearest_existing(folder: str) -> str:
    """Return the folder, or the nearest one above it that exists."""
    if paths.is_remote(folder):
        return folder
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder
