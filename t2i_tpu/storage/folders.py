"""Creates local folders, which get their name only when they are complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

from t2i_tpu.storage import paths


@contextlib.contextmanager
def create_atomically(folder: str, is_complete: Callable[[str], bool]) -> Iterator[str]:
    """Yield a temporary folder to fill, and rename it to `folder` when the block ends.

    The temporary folder is a sibling of `folder`, and is removed if the block raises an error. Several
    processes may create the same folder at the same time: the first one that finishes provides the
    folder, and the others discard theirs.

    Args:
      folder: a local path. The folders above it are created if necessary.
      is_complete: a function that returns whether a folder, which another process may have created, is
        complete.

    Raises:
      OSError: the folder cannot be created, or an incomplete one is in its place.
    """
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".", suffix=paths.PARTIAL_SUFFIX, dir=parent)
    try:
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not is_complete(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
