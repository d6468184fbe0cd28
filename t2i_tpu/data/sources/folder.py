"""A folder of images: captions beside them (.txt), or in one table at its top."""

import concurrent.futures
import csv
import functools
import json
import os
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from t2i_tpu.data.sources.source import IMAGE_ENDINGS, UNIT_SIZE, Item, Unit
from t2i_tpu.errors import UserError

_TABLES = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
_FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
_CAPTION_COLUMNS = ("text", "caption", "prompt", "TEXT")
_NO_FILE = tf.errors.NotFoundError, tf.errors.InvalidArgumentError
_AT_ONCE = 16  # files read: on gs:// each takes several requests


class FolderSource:
    """Images at any depth. With a table (metadata.jsonl as Hugging Face has it, captions.jsonl or
    .csv) its rows are the examples; without one every image is, with NAME.txt as its caption."""

    def __init__(self, folder: str):
        self.folder = os.path.expanduser(folder).rstrip("/")

    def units(self) -> Iterator[Unit]:
        if not tf.io.gfile.isdir(self.folder):
            raise UserError(f"--source=folder:{self.folder}: there is no such folder")
        tables = [name for name in _TABLES if tf.io.gfile.exists(self._path(name))]
        if len(tables) > 1:
            raise UserError(
                f"--source=folder:{self.folder} has {' and '.join(tables)}; leave one of them"
            )
        yield from _chunks(self._rows(tables[0]) if tables else self._images(), bool(tables))

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = unit["rows"]
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(rows), _AT_ONCE):
                yield from pool.map(
                    functools.partial(self._item, unit["table"]), rows[start : start + _AT_ONCE]
                )

    def label_names(self) -> None:
        return None

    def _item(self, table: bool, row: tuple[str, str | None, dict[str, Any]]) -> Item:
        name, caption, columns = row
        if posixpath.isabs(name) or ".." in name.split("/"):
            return Item(name, problem="unsafe_name")
        item = Item(name, caption=caption, columns=columns)
        try:
            item.image = self._bytes(name)
        except tf.errors.OpError as error:
            # On gs:// the others are of credentials or of a bucket that does not answer.
            if "://" in self.folder and not isinstance(error, _NO_FILE):
                raise
            item.problem = "missing_image"
        if not table and item.problem is None:
            try:
                item.caption = self._bytes(posixpath.splitext(name)[0] + ".txt")
            except tf.errors.NotFoundError:
                item.problem = "no_caption"
        return item

    def _path(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _bytes(self, name: str) -> bytes:
        with tf.io.gfile.GFile(self._path(name), "rb") as file:
            return file.read()

    def _images(self, folder: str = ""):
        """Sorted: else the file system would say in which order they come."""
        subfolders = []
        names = tf.io.gfile.listdir(self._path(folder))
        for name in sorted(names, key=lambda name: name.rstrip("/")):
            path = posixpath.join(folder, name)
            if name.lower().rpartition(".")[2] in IMAGE_ENDINGS:
                yield path, None, {}
            # On gs:// a folder's name ends so, and to ask of each would take a request.
            elif (
                name[1:].endswith("/")
                if "://" in self.folder
                else tf.io.gfile.isdir(self._path(path))
            ):
                subfolders.append(path)
        for path in subfolders:
            yield from self._images(path)

    def _rows(self, table: str):
        with tf.io.gfile.GFile(self._path(table), "rb") as file:
            lines = (line.decode("utf-8", "surrogateescape") for line in file)
            rows = csv.DictReader(lines) if table.endswith(".csv") else map(_json, lines)
            for number, row in enumerate(rows, 1):
                name = next((row[c] for c in _FILE_COLUMNS if row.get(c)), None)
                if not isinstance(name, str):
                    raise UserError(
                        f"{self._path(table)}: row {number} names no image; "
                        f"it needs a column {' or '.join(_FILE_COLUMNS)}"
                    )
                caption = next((row[c] for c in _CAPTION_COLUMNS if row.get(c)), None)
                rest = {
                    name: value
                    for name, value in row.items()
                    if isinstance(value, (int, float, str))
                }
                yield name, caption if isinstance(caption, str) else None, rest


def _json(line: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {}


def _chunks(rows, table: bool) -> Iterator[Unit]:
    some = []
    for row in rows:
        some.append(row)
        if len(some) == UNIT_SIZE:
            yield {"rows": some, "table": table}
            some = []
    if some:
        yield {"rows": some, "table": table}
