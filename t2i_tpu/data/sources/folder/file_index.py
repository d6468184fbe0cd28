"""Finds the file that a table means by a name, and the images that no table names."""

import os
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Iterator

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, fold, get_ending


class FileIndex:
    """Finds the files of a folder by the names that a table gives them.

    A table may name a file by its path in the folder, or

    - with backslashes, with ./, / or the path of the folder in front, or encoded as in a URL;
    - in a different case or without its ending, if only one file fits;
    - with other folders in front, if they are the same for all names in the table;
    - without the subfolders that contain it, if only one file fits.

    The last two spellings are for tables whose paths are relative to another folder. They are accepted
    only if no name in the table is a path in the folder or has the first of these spellings.

    Args:
      files: the paths of all files relative to the folder.
      folder: path of the folder.
      read_names: returns an iterator of all names in the table. It is called more than once.
    """

    def __init__(self, files: Iterable[str], folder: str, read_names: Callable[[], Iterator[str]]):
        self.is_named = dict.fromkeys(files, False)  # whether the table names the file
        self.folders = {folder + "/", os.path.abspath(folder) + "/"}
        self.endings = None
        fitting = (self._find_prefix(name) for name in read_names())
        prefixes = (prefix for prefix in fitting if prefix is not None)
        # The folders in front of the table's names, or "" if they are relative to this folder.
        self.prefix = next(prefixes, None)
        if self.prefix and "" in prefixes:
            self.prefix = ""
        if self.prefix and not all(map(self._has_prefix, read_names())):
            self.prefix = None

    def find(self, name: str) -> str | None:
        """Return the path of the file that a table means, or None. The file then counts as named."""
        path = self._find(name)
        if path is not None:
            self.is_named[path] = True
        return path

    def list_unnamed_images(self) -> Iterator[str]:
        """Yield the images that `find` has never returned."""
        for path, is_named in self.is_named.items():
            if not is_named and get_ending(path) in IMAGE_ENDINGS:
                yield path

    def _find(self, name: str) -> str | None:
        if name in self.is_named:
            return name
        spellings = self._list_spellings(name)
        for path in spellings:
            if path in self.is_named:
                return path
        if self.prefix:
            spellings = [path.removeprefix(self.prefix) for path in spellings]
            return next((path for path in spellings if path in self.is_named), None)
        if self.endings is None:
            self.endings = _PathEndings(self.is_named)
        for path in spellings:
            if found := self.endings.find(path, in_subfolders=self.prefix is None):
                return found
        return None

    def _find_prefix(self, name: str) -> str | None:
        """Return the folders without which a name is found, or None if it is not found."""
        spellings = self._list_spellings(name)
        for path in spellings:
            if path in self.is_named:
                return ""
        for path in spellings:
            parts = path.split("/")
            for start in range(1, len(parts)):
                rest = "/".join(parts[start:])
                if rest in self.is_named:
                    return path.removesuffix(rest)
        return None

    def _has_prefix(self, name: str) -> bool:
        return any(path.startswith(self.prefix) for path in self._list_spellings(name))

    def _list_spellings(self, name: str) -> list[str]:
        """Return a name, and what it could mean on another system or as a URL."""
        spellings = [name]
        for text in (name.strip(), urllib.parse.unquote(name.strip())):
            path = text.removeprefix("file://").replace("\\", "/")
            for folder in self.folders:
                path = path.removeprefix(folder)
            if path and ".." not in path.split("/"):
                spellings.append(posixpath.normpath(path).lstrip("/"))
        return spellings


class _PathEndings:
    """Finds paths by their last parts, regardless of case and with or without the file's ending."""

    def __init__(self, paths: Iterable[str]):
        self.paths = {}  # the paths by their last part, and by their last two
        for path in paths:
            folded = fold(path)
            spellings = [folded]
            if get_ending(path) in IMAGE_ENDINGS:
                spellings.append(posixpath.splitext(folded)[0])
            for spelling in spellings:
                for key in {_get_last_parts(spelling, 1), _get_last_parts(spelling, 2)}:
                    self.paths.setdefault(key, []).append((spelling, path))

    def find(self, name: str, in_subfolders: bool) -> str | None:
        """Return the only path that fits a name, or None."""
        name = fold(name)
        candidates = self.paths.get(_get_last_parts(name, 2), ())
        fitting = {path for spelling, path in candidates if spelling == name}
        if not fitting and in_subfolders:
            fitting = {path for spelling, path in candidates if spelling.endswith("/" + name)}
        return fitting.pop() if len(fitting) == 1 else None


def _get_last_parts(path: str, count: int) -> str:
    return "/".join(path.split("/")[-count:])
