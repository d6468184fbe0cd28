"""Checks of folders and files that a user names as an output: what is there must not be lost.

Every file that the user names and that may be replaced, such as a picture, contains MARK near its
start. A file without it belongs to the user.
"""

import os

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths

MARK = b"t2i_tpu"
_MARKED_BYTES = 1024  # the mark is within this many bytes from the start of a file
# Names that operating systems put into folders unasked. Names that start with "." are hidden too.
_HIDDEN = ("lost+found", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")


def list_visible(folder: str) -> list[str]:
    """Return the names in a folder, local or gs://, without hidden ones; [] if it does not exist."""
    names = files.list_names(folder)
    return [name for name in names if not name.startswith(".") and name not in _HIDDEN]


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
      UserError: the path, or one above it, is a file or a link that leads nowhere.
    """
    if paths.is_remote(folder):
        if tf.io.gfile.exists(folder) and not tf.io.gfile.isdir(folder):
            raise UserError(f"{before}{folder} is a file; choose a folder")
        return
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if os.path.isdir(path):
        return
    what = f"{path!r} is a file"
    if not os.path.exists(path):
        what = f"{path!r} is a link to {os.readlink(path)!r}, which does not exist"
    raise UserError(f"{before}{folder} cannot be a folder: {what}; choose another path")


def check_file(path: str, before: str) -> None:
    """Check that a file may be written or replaced.

    Args:
      path: local or gs://.
      before: what precedes the path in the user's command, for messages.

    Raises:
      UserError: the path is a folder, there is a file that t2i_tpu did not write, or the folder above
        it is none.
    """
    parent = path.rpartition("/")[0]
    if not paths.is_remote(path):
        check_folder(parent or ("/" if path.startswith("/") else "."), before)
    if tf.io.gfile.isdir(path):
        raise UserError(f"{before}{path} is a folder; add the name of a file")
    if not paths.is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{before}{path} is not an ordinary file; choose another path")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            start = file.read(_MARKED_BYTES)
    except tf.errors.NotFoundError:
        return
    except tf.errors.OpError as error:
        raise UserError(f"{before}{path}: {files.explain_error(path, error)}") from error
    if start and MARK not in start:
        raise UserError(
            f"{before}{path} exists, and t2i_tpu did not write it; remove it or choose another name"
        )
