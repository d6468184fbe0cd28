"""Local folders that get their name only when they are complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def create_atomically(folder: str, is_complete: Callable[[str], bool]) -> Iterator[str]:
    """Yield a temporary folder to fill, and rename it to `folder` when the block ends.

    The temporary folder is a sibling of `folder`, and it is removed if the block raises an error.
    Several processes may create the same folder at the same time: the first to rename its own wins,
    and the others keep the winner's.

    Args:
      folder: local path; the folders above it are created if necessary.
      is_complete: says whether the folder that another process left at a path is complete.

    Raises:
      OSError: the folder cannot be created, or an incomplete one is in its place.
    """
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".partial-", dir=parent)
    try:
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not is_complete(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
