"""Finds the file that a table means by a name, and the images that no table names."""

import posixpath
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, get_ending


class FileIndex:
    """The files of a folder, whose names a table may spell differently.

    A name is found as it is, or else

    - with slashes for backslashes, without ./ or / in front, or decoded from a URL;
    - in other case, or without the ending, if that fits only one file;
    - without the folders in front of it, if these are the same for the complete table;
    - in any subfolder, if there is only one file of that name.

    The last two ways are for tables that are relative to another folder. So they are used only if no name
    was found as it is.

    Args:
      files: the paths of all files relative to the folder.
    """

    def __init__(self, files: Iterable[str]):
        self.is_named = dict.fromkeys(files, False)  # whether the table names the file
        self.is_relative = False  # whether the table's names are relative to this folder
        self.prefix = (
            None  # the folders in front of the table's names, once a name is found without
        )
        self.endings = None

    def find(self, name: str) -> str | None:
        """Return the path of the file that a table means, or None. The file then counts as named."""
        path = self._find(list(dict.fromkeys(_list_spellings(name))))
        if path is not None:
            self.is_named[path] = True
        return path

    def list_unnamed_images(self) -> Iterator[str]:
        """Yield the images that `find` has never returned."""
        for path, is_named in self.is_named.items():
            if not is_named and get_ending(path) in IMAGE_ENDINGS:
                yield path

    def _find(self, spellings: list[str]) -> str | None:
        for path in spellings:
            if path in self.is_named:
                self.is_relative = True
                return path
        if not self.is_relative:
            for path in spellings:
                if rest := self._strip_prefix(path):
                    return rest
        if self.endings is None:
            self.endings = _PathEndings(self.is_named)
        for path in spellings:
            if found := self.endings.find(path, in_subfolders=not self.is_relative):
                return found
        return None

    def _strip_prefix(self, path: str) -> str | None:
        if self.prefix is not None:
            rest = path.removeprefix(self.prefix)
            return rest if rest != path and rest in self.is_named else None
        parts = path.split("/")
        for start in range(1, len(parts)):
            rest = "/".join(parts[start:])
            if rest in self.is_named:
                self.prefix = path.removesuffix(rest)
                return rest
        return None


class _PathEndings:
    """Finds paths by their last parts, regardless of case and with or without the file's ending."""

    def __init__(self, paths: Iterable[str]):
        self.paths = {}  # the paths by their last part, and by their last two
        for path in paths:
            folded = _fold(path)
            spellings = [folded]
            if get_ending(path) in IMAGE_ENDINGS:
                spellings.append(posixpath.splitext(folded)[0])
            for spelling in spellings:
                for key in {_get_last_parts(spelling, 1), _get_last_parts(spelling, 2)}:
                    self.paths.setdefault(key, []).append((spelling, path))

    def find(self, name: str, in_subfolders: bool) -> str | None:
        """Return the only path that fits a name, or None."""
        name = _fold(name)
        candidates = self.paths.get(_get_last_parts(name, 2), ())
        fitting = {path for spelling, path in candidates if spelling == name}
        if not fitting and in_subfolders:
            fitting = {path for spelling, path in candidates if spelling.endswith("/" + name)}
        return fitting.pop() if len(fitting) == 1 else None


def _list_spellings(name: str) -> Iterator[str]:
    """Yield a name, and what it could mean on another system or as a URL."""
    yield name
    for text in (name.strip(), urllib.parse.unquote(name.strip())):
        path = text.removeprefix("file://").replace("\\", "/")
        if path and ".." not in path.split("/"):
            yield posixpath.normpath(path).lstrip("/")


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _get_last_parts(path: str, count: int) -> str:
    return "/".join(path.split("/")[-count:])
