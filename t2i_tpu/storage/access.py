"""Checks whether a folder, local or gs://, can be written, and measures its size."""

import contextlib
import os
import posixpath
import shutil
import uuid

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

# Long enough to need a block of the disk: some file systems store a small file in its inode.
_PROBE = b"t2i_tpu checks whether it can write here\n" * 100


def check_writable(folder: str) -> None:
    """Write a small file, read it back and remove it.

    The folder need not exist: the file is then written in the nearest folder above it.

    Raises:
      UserError: one of these is not possible; the message says why and what to do.
    """
    path = posixpath.join(_nearest_existing(folder), f".probe-{uuid.uuid4().hex}.tmp")
    is_left = False
    try:
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(_PROBE)
        is_left = True
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        tf.io.gfile.remove(path)
    except tf.errors.OpError as error:
        # Removing the file may fail for the same reason.
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(path)
            is_left = False
        left = f" (and {path} is left there)" if is_left else ""
        raise UserError(
            f"{folder} cannot be written: {files.explain_error(path, error)}{left}"
        ) from error
    if content != _PROBE:
        raise UserError(
            f"{folder} returned different bytes than were written to it; use another folder"
        )


def free_bytes(folder: str) -> int | None:
    """Return the free space on the disk that holds a folder or will hold it; None for gs://."""
    return None if _is_remote(folder) else shutil.disk_usage(_nearest_existing(folder)).free


def used_bytes(folder: str) -> int:
    """Return the size of the files in a local folder, without its subfolders.

    It is 0 if the folder does not exist or is on gs://.
    """
    if _is_remote(folder) or not os.path.isdir(folder):
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())


def _nearest_existing(folder: str) -> str:
    """Return the folder, or the nearest one above it that exists."""
    if _is_remote(folder):
        return folder
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_remote(folder: str) -> bool:
    return "://" in folder
