"""Checks the folders and files that a user names as outputs, because nothing there may be lost.

If a script writes a file under a name from the user, such as a picture, the file contains MARK near its
start or end, and may be replaced later. A file without the mark belongs to the user.
"""

import os
from collections.abc import Callable

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths

MARK = "t2i_tpu"
_MARKED_BYTES = 1024  # the mark is within this many bytes of the start or the end of a file
# Names that operating systems put into folders unasked. Names that start with "." are hidden too.
_HIDDEN = ("lost+found", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")


def list_visible(folder: str) -> list[str]:
    """Return the names in a folder, local or gs://, except for hidden and unfinished ones.

    The result is [] if the folder does not exist.
    """
    return [
        name
        for name in files.list_names(folder)
        if not name.startswith(".") and name not in _HIDDEN and not paths.is_partial(name)
    ]


def describe_names(names: list[str]) -> str:
    """Return a short text that lists names, such as "a, b, c and 5 more"."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def check_folder(folder: str, before: str) -> None:
    """Check that a path is a folder or that a folder can be created there.

    Args:
      folder: local or gs://.
      before: what precedes the path in the user's command, for messages.

    Raises:
      UserError: the path, or one above it, is a file or a broken link.
    """
    if obstacle := _find_obstacle(folder):
        raise UserError(f"{before}{folder} cannot be a folder: {obstacle}; choose another path")


def check_file(path: str, before: str) -> None:
    """Check that a file may be written or replaced.

    Args:
      path: local or gs://.
      before: what precedes the path in the user's command, for messages.

    Raises:
      UserError: the path is a folder or a file that t2i_tpu did not write, or the path above it cannot
        be a folder.
    """
    obstacle = None if paths.is_remote(path) else _find_obstacle(os.path.dirname(path))
    if obstacle:
        raise UserError(f"{before}{path} cannot be written: {obstacle}; choose another path")
    if tf.io.gfile.isdir(path):
        raise UserError(f"{before}{path} is a folder; add the name of a file")
    if not paths.is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{before}{path} is not an ordinary file; choose another path")
    try:
        is_ours = _is_empty_or_marked(path)
    except tf.errors.NotFoundError:
        return
    except tf.errors.OpError as error:
        raise UserError(f"{before}{path}: {files.explain_error(path, error)}") from error
    if not is_ours:
        raise UserError(
            f"{before}{path} exists, and t2i_tpu did not write it; remove it or choose another name"
        )


def _is_empty_or_marked(path: str) -> bool:
    """Return whether a file is empty or has MARK near its start or end."""
    with tf.io.gfile.GFile(path, "rb") as file:
        start = file.read(_MARKED_BYTES)
        if not start or is_marked(start):
            return True
        file.seek(max(0, file.size() - _MARKED_BYTES))
        return is_marked(file.read(_MARKED_BYTES))


def is_marked(content: bytes) -> bool:
    """Return whether the content of a file has MARK near its start or end.

    WebP and MP4 store metadata at their end.
    """
    mark = MARK.encode()
    return mark in content[:_MARKED_BYTES] or mark in content[-_MARKED_BYTES:]


def _find_obstacle(folder: str) -> str | None:
    """Return why a path is not a folder and why none can be created there, or None."""
    if paths.is_remote(folder):
        is_file = tf.io.gfile.exists(folder) and not tf.io.gfile.isdir(folder)
        return f"{folder!r} is a file" if is_file else None
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if os.path.isdir(path):
        return None
    if not os.path.exists(path):
        return f"{path!r} is a link to {os.readlink(path)!r}, which does not exist"
    return f"{path!r} is a file"


def check_files(folder: str, will_write: Callable[[str], bool], before: str) -> None:
    """Check that files may be written or replaced in a folder.

    Args:
      folder: local or gs://.
      will_write: a function that returns whether a file with a given name will be written.
      before: what precedes the folder in the user's command, for messages.

    Raises:
      UserError: the path cannot be a folder, or one of the files exists and t2i_tpu did not write it.
    """
    check_folder(folder, before)
    for name in files.list_names(folder):
        if will_write(name):
            check_file(f"{folder}/{name}", before)


def write_file(path: str, content: bytes) -> None:
    """Write or replace a file that the user named, and create the folder above it if necessary.

    Args:
      path: local or gs://. It should have passed `check_file` before the content was computed.
      content: the content, with MARK near its start or end.

    Raises:
      UserError: the file cannot be written.
    """
    parent = path.rpartition("/")[0]
    try:
        if parent:
            tf.io.gfile.makedirs(parent)
        files.write(path, content)
    except tf.errors.OpError as error:
        raise UserError(f"cannot write {path}: {files.explain_error(path, error)}") from error
