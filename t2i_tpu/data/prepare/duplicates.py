"""An index on disk that finds duplicate examples by key, content and perceptual hash."""

import hashlib
import itertools
import os
import sqlite3
import tempfile

_STATEMENTS = (
    # The index need not survive a crash.
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    # count is the number of the last key KEY~count that was made from the key.
    "CREATE TABLE keys (value TEXT PRIMARY KEY, digest BLOB, count INT) WITHOUT ROWID",
    "CREATE TABLE repeats (value BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE contents (value BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE hashes (band INT, part INT, value INT, PRIMARY KEY (band, part, value)) "
    "WITHOUT ROWID",
    "BEGIN",
)


class DuplicateIndex:
    """Finds duplicates among the examples that were added. It is an SQLite file in a temporary folder.

    Args:
      distance: two images are near-duplicates if their 64-bit perceptual hashes differ in at most
        this many bits. None if no perceptual hashes will be added.
    """

    def __init__(self, distance: int | None):
        self.distance = distance
        self.folder = tempfile.TemporaryDirectory(prefix="t2i_tpu-duplicates-")
        self.index = sqlite3.connect(os.path.join(self.folder.name, "index"), isolation_level=None)
        for statement in _STATEMENTS:
            self.index.execute(statement)

    def claim_key(self, key: str, digest: bytes) -> str | None:
        """Return a unique key for an example: `key`, or if it is taken KEY~2, KEY~3 and so on.

        Args:
          key: key of the example.
          digest: hash of everything by which examples with the same key differ.

        Returns:
          The unique key, or None if an example with the same key and digest was added before.
        """
        row = self.index.execute(
            "SELECT digest, count FROM keys WHERE value = ?", (key,)
        ).fetchone()
        if row is None:
            self.index.execute("INSERT INTO keys VALUES (?, ?, 1)", (key, digest))
            return key
        first_digest, count = row
        repeat = hashlib.sha256(key.encode() + b"\0" + digest).digest()
        if digest == first_digest or not self._insert("repeats", repeat):
            return None
        unique, is_new = key, False
        while not is_new:
            count += 1
            unique = f"{key}~{count}"
            # This key has no digest: an example that comes with such a key is a different one.
            is_new = self._insert("keys", unique, None, 1)
        self.index.execute("UPDATE keys SET count = ? WHERE value = ?", (count, key))
        return unique

    def add_image(self, sha256: bytes | None, phash: bytes | None) -> str | None:
        """Add an image unless it duplicates an earlier one.

        Args:
          sha256: hash of the image, or None to allow equal images.
          phash: perceptual hash of the image, or None to allow similar images.

        Returns:
          None if the image is new; otherwise duplicate_image or near_duplicate.
        """
        if sha256 is not None and not self._insert("contents", sha256):
            return "duplicate_image"
        if phash is None:
            return None
        if self.has_near_duplicate(phash):
            return "near_duplicate"
        value = int.from_bytes(phash, "big")
        self.index.executemany(
            "INSERT OR IGNORE INTO hashes VALUES (?, ?, ?)",
            [(band, part, _to_signed(value)) for band, part in self._split_into_bands(value)],
        )
        return None

    def has_image(self, sha256: bytes) -> bool:
        """Return whether an image with this hash was added."""
        rows = self.index.execute("SELECT 1 FROM contents WHERE value = ?", (sha256,))
        return rows.fetchone() is not None

    def has_near_duplicate(self, phash: bytes) -> bool:
        """Return whether an image with a similar perceptual hash was added."""
        value = int.from_bytes(phash, "big")
        # If two hashes differ in at most d bits, at least one of d + 1 bands is equal. So only
        # hashes that share a band are compared.
        for band in self._split_into_bands(value):
            rows = self.index.execute("SELECT value FROM hashes WHERE band = ? AND part = ?", band)
            if any((value ^ _to_unsigned(row[0])).bit_count() <= self.distance for row in rows):
                return True
        return False

    def close(self) -> None:
        """Delete the index."""
        self.index.close()
        self.folder.cleanup()

    def _insert(self, table: str, *row: str | bytes | int | None) -> bool:
        """Insert a row and return whether its first value is new."""
        places = ", ".join("?" * len(row))
        cursor = self.index.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)
        return cursor.rowcount > 0

    def _split_into_bands(self, value: int) -> list[tuple[int, int]]:
        """Divide 64 bits into distance + 1 bands, and return each as (index of the band, its bits)."""
        count = self.distance + 1
        bounds = [64 * band // count for band in range(count + 1)]
        return [
            (band, _to_signed(value >> start & (1 << end - start) - 1))
            for band, (start, end) in enumerate(itertools.pairwise(bounds))
        ]


def _to_signed(value: int) -> int:
    """Return a 64-bit value as a signed integer, the only kind that SQLite stores."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _to_unsigned(value: int) -> int:
    """Return the 64-bit value that `_to_signed` was given."""
    return value % (1 << 64)
