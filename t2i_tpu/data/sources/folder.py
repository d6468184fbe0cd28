"""A folder of images: captions beside them (.txt), or in one table at its top."""

import csv
import json
import os
import posixpath
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.sources.source import IMAGE_ENDINGS, UNIT_SIZE, Item, Unit
from t2i_tpu.errors import UserError

_TABLES = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
_FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
_CAPTION_COLUMNS = ("text", "caption", "prompt", "TEXT")


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
        for name, caption, columns in unit["rows"]:
            if posixpath.isabs(name) or ".." in name.split("/"):
                yield Item(name, problem="unsafe_name")
                continue
            item = Item(name, caption=caption, columns=columns)
            try:
                item.image = self._bytes(name)
            except tf.errors.OpError:
                item.problem = "missing_image"
            if not unit["table"] and item.problem is None:
                try:
                    item.caption = self._bytes(posixpath.splitext(name)[0] + ".txt")
                except tf.errors.NotFoundError:
                    item.problem = "no_caption"
            yield item

    def label_names(self) -> None:
        return None

    def _path(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _bytes(self, name: str) -> bytes:
        with tf.io.gfile.GFile(self._path(name), "rb") as file:
            return file.read()

    def _images(self):
        for folder, subfolders, names in tf.io.gfile.walk(self.folder):
            subfolders.sort()  # else the file system says in which order they come
            prefix = folder[len(self.folder) :].strip("/")
            for name in sorted(names):
                if name.lower().rpartition(".")[2] in IMAGE_ENDINGS:
                    yield posixpath.join(prefix, name), None, {}

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
