"""Whether a folder, on disk or gs://, can be written, and what it means where it cannot."""

import contextlib
import os
import posixpath
import shutil
import uuid

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

_PROBE = b"t2i_tpu looks whether it can write here\n" * 100  # more than fits beside an inode


def check_writable(folder: str) -> None:
    """Writes a small file, reads it back and removes it, and so leaves nothing.

    Raises:
      UserError: what is refused, where, to whom, and what to do.
    """
    path = posixpath.join(_existing(folder), f".probe-{uuid.uuid4().hex}.tmp")
    is_left = False
    try:
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(_PROBE)
        is_left = True
        with tf.io.gfile.GFile(path, "rb") as file:
            found = file.read()
        tf.io.gfile.remove(path)
    except tf.errors.OpError as error:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(path)  # what refused the one may refuse the other
            is_left = False
        left = f" (and {path} is left there)" if is_left else ""
        raise UserError(
            f"{folder} cannot be written: {files.explain_error(path, error)}{left}"
        ) from error
    if found != _PROBE:
        raise UserError(f"{folder} gives back other bytes than were written; use another folder")


def free_bytes(folder: str) -> int | None:
    """Of the disk that holds a folder or will; None for gs://."""
    return None if _is_remote(folder) else shutil.disk_usage(_existing(folder)).free


def used_bytes(folder: str) -> int:
    """Of the files in a local folder, without those below; 0 where it is not there."""
    if _is_remote(folder) or not os.path.isdir(folder):
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())


def _existing(folder: str) -> str:
    """The folder, or where it will be made: the nearest one above that is there."""
    if _is_remote(folder):
        return folder
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_remote(folder: str) -> bool:
    return "://" in folder
