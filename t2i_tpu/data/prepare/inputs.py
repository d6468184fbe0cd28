"""Identifies the input of each unit by the names, sizes and versions of its files.

If a file was changed, added or removed, its unit therefore has another name, under which there is no
result yet. No file is read for this.
"""

import dataclasses
import functools
import hashlib
import json
import posixpath
from collections.abc import Iterator

from t2i_tpu.data.prepare.sources import blame_source
from t2i_tpu.data.sources.source import Source, Unit
from t2i_tpu.storage import listing, paths

_CACHED_FILES = 4096
_CACHED_FOLDERS = 64


@dataclasses.dataclass(frozen=True)
class InputSummary:
    """Identifies the input of a preparation.

    Attributes:
      files: number of files, counted once for each unit that needs them.
      num_bytes: their total size.
      content_sha256: hash of the units with the sizes of their files.
      versions_sha256: hash of the versions of the files.
    """

    files: int
    num_bytes: int
    content_sha256: str
    versions_sha256: str


class InputReader:
    """Lists the units of a source with the names that identify their input.

    Args:
      source: the source.
      name: value of --source, for error messages.

    Attributes:
      summary: the summary of the units that have been listed so far.
    """

    def __init__(self, source: Source, name: str):
        self.source, self.name = source, name
        self._content, self._versions = hashlib.sha256(), hashlib.sha256()
        self._files = self._bytes = 0
        # Units share files and folders.
        self._stat = functools.lru_cache(_CACHED_FILES)(listing.stat_local_file)
        self._list_folder = functools.lru_cache(_CACHED_FOLDERS)(listing.list_files)

    def list_units(self) -> Iterator[tuple[str, Unit]]:
        """Yield (name, unit) of every unit. Raises UserError if the source cannot be read."""
        with blame_source(self.name):
            yield from self._list_units()

    def _list_units(self) -> Iterator[tuple[str, Unit]]:
        for unit in self.source.list_units():
            found = [self._find_file(path) for path in self.source.list_files(unit)]
            sizes = [info.num_bytes if info else None for info in found]
            versions = [(info.crc32c or info.version) if info else None for info in found]
            content = json.dumps([unit, sizes]).encode()
            version = json.dumps(versions).encode()
            self._content.update(content)
            self._versions.update(version)
            self._files += sum(info is not None for info in found)
            self._bytes += sum(size or 0 for size in sizes)
            yield hashlib.sha256(content + version).hexdigest()[:20], unit

    @property
    def summary(self) -> InputSummary:
        content, versions = self._content.hexdigest(), self._versions.hexdigest()
        return InputSummary(self._files, self._bytes, content, versions)

    def _find_file(self, path: str) -> listing.FileInfo | None:
        """Return the size and version of a file, or None if it does not exist."""
        if not paths.is_remote(path):
            return self._stat(path)
        folder, name = posixpath.split(path)
        return self._list_folder(folder).get(name)
