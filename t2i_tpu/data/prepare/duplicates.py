"""Which examples came before: keys, bytes and perceptual hashes, in an index on disk."""

import itertools
import os
import sqlite3
import tempfile


class Seen:
    """Remembers every example that it let pass, outside of memory.

    Args:
      distance: perceptual hashes that differ in so many of 64 bits or fewer are of one image.
    """

    def __init__(self, distance: int | None):
        self.distance = distance
        self.folder = tempfile.TemporaryDirectory(prefix="t2i_tpu-duplicates-")
        self.index = sqlite3.connect(os.path.join(self.folder.name, "index"), isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE keys (value TEXT PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE contents (value BLOB PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE hashes (band INT, part INT, value INT, PRIMARY KEY (band, part, value)) "
            "WITHOUT ROWID",
            "BEGIN",
        ):
            self.index.execute(statement)

    def cause(self, key: str, sha256: bytes | None, hash_: bytes | None) -> str | None:
        """None for an example that is new, otherwise what it is a duplicate by."""
        if not self._is_new("keys", key):
            return "duplicate_key"
        if sha256 is not None and not self._is_new("contents", sha256):
            return "duplicate_image"
        if hash_ is None:
            return None
        if self.has_near(hash_):
            return "near_duplicate"
        value = int.from_bytes(hash_, "big")
        self.index.executemany(
            "INSERT OR IGNORE INTO hashes VALUES (?, ?, ?)",
            [(band, part, _signed(value)) for band, part in self._bands(value)],
        )
        return None

    def has_same(self, sha256: bytes) -> bool:
        rows = self.index.execute("SELECT 1 FROM contents WHERE value = ?", (sha256,))
        return rows.fetchone() is not None

    def has_near(self, hash_: bytes) -> bool:
        """Of hashes that differ in d bits, one of d + 1 parts is equal: only those are compared."""
        value = int.from_bytes(hash_, "big")
        for band in self._bands(value):
            rows = self.index.execute("SELECT value FROM hashes WHERE band = ? AND part = ?", band)
            if any((value ^ _unsigned(row[0])).bit_count() <= self.distance for row in rows):
                return True
        return False

    def close(self) -> None:
        self.index.close()
        self.folder.cleanup()

    def _is_new(self, table: str, value: str | bytes) -> bool:
        return self.index.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", (value,)).rowcount

    def _bands(self, value: int) -> list[tuple[int, int]]:
        return list(enumerate(_parts(value, self.distance + 1)))


def _parts(value: int, count: int) -> list[int]:
    """The 64 bits in `count` runs."""
    bounds = [64 * index // count for index in range(count + 1)]
    return [
        _signed(value >> start & (1 << end - start) - 1)
        for start, end in itertools.pairwise(bounds)
    ]


def _signed(value: int) -> int:  # SQLite's integers are signed
    return value - (1 << 64) if value >= 1 << 63 else value


def _unsigned(value: int) -> int:
    return value % (1 << 64)
