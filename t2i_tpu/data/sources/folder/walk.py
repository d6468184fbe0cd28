"""Walks through a folder and its subfolders, local or gs://, in an order that depends only on names."""

import os
import pathlib
import posixpath
from collections.abc import Callable, Iterator

import tensorflow as tf

from t2i_tpu.data.sources.file_names import is_clutter
from t2i_tpu.storage import paths


def walk(
    root: str, start: str, on_error: Callable[[str], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder as (path, names of its files, names of its subfolders).

    A folder comes before its subfolders, and names are sorted. Clutter (`is_clutter`) is left out. Links
    are followed, except to a folder that contains the link. To skip subfolders, the caller may remove
    their names from the list.

    Args:
      root: the folder.
      start: path of the subfolder at which to start, relative to the root, or "" for the root.
      on_error: a function that is called with the relative path of each subfolder that cannot be read.

    Raises:
      OSError: `start` cannot be read.
    """
    is_remote = paths.is_remote(root)
    stack = [(start, () if is_remote else _identify_parents(posixpath.join(root, start)))]
    while stack:
        path, parents = stack.pop()
        try:
            files, folders = list_folder(root, path)
        except OSError:
            if path == start:
                raise
            on_error(path)
            continue
        yield path, files, folders
        if not is_remote:
            parents = (*parents, _get_identity(posixpath.join(root, path)))
        for name in reversed(folders):
            subfolder = posixpath.join(path, name)
            if is_remote or not _leads_back(posixpath.join(root, subfolder), parents):
                stack.append((subfolder, parents))


def list_folder(root: str, path: str) -> tuple[list[str], list[str]]:
    """Return the sorted names of a folder's files and of its subfolders, without clutter."""
    files, folders = [], []
    folder = posixpath.join(root, path)
    if paths.is_remote(folder):
        # On gs:// the names of folders end in a slash. isdir would take a request for each name.
        for name in tf.io.gfile.listdir(folder):
            (folders if name.endswith("/") else files).append(name.rstrip("/"))
    else:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if _is_folder(entry) else files).append(entry.name)
    return _sort(files), _sort(folders)


def _sort(names: list[str]) -> list[str]:
    return sorted(name for name in names if name and not is_clutter(name))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _leads_back(path: str, parents: tuple[tuple[int, int], ...]) -> bool:
    """Return whether a folder is a link to one of the folders that lead to it."""
    return os.path.islink(path) and _get_identity(path) in parents


def _identify_parents(path: str) -> tuple[tuple[int, int], ...]:
    """Return the identities of all folders that contain a folder."""
    return tuple(map(_get_identity, pathlib.Path(os.path.realpath(path)).parents))


def _get_identity(path: str) -> tuple[int, int]:
    """Return two numbers that are the same for all paths of a folder."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
