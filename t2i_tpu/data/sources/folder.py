"""Reads a folder of images with a caption file next to each image, or with one table of captions."""

import concurrent.futures
import csv
import functools
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS
from t2i_tpu.data.sources.source import UNIT_SIZE, Item, Unit, is_unsafe_name, select_columns
from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

_TABLES = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
_FILE_COLUMNS = ("file_name", "file", "filename", "image", "path")
_CAPTION_COLUMNS = ("text", "caption", "prompt", "TEXT")
_MISSING_FILE_ERRORS = tf.errors.NotFoundError, tf.errors.InvalidArgumentError
_PARALLEL_READS = 16  # on gs:// reading a file takes several requests

# An image's path relative to the folder, its caption if there is a table, and its other columns.
Row = tuple[str, str | None, dict[str, Any]]


class FolderSource:
    """A folder that contains images at any depth.

    If the folder has a table (metadata.jsonl in Hugging Face's format, captions.jsonl or .csv), the
    rows of the table are the items. Otherwise every image is an item with NAME.txt as its caption.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def list_units(self) -> Iterator[Unit]:
        if not tf.io.gfile.isdir(self.folder):
            raise UserError(f"--source=folder:{self.folder}: no such folder; check the path")
        tables = [name for name in _TABLES if tf.io.gfile.exists(self._join(name))]
        if len(tables) > 1:
            raise UserError(
                f"--source=folder:{self.folder} has {' and '.join(tables)}; keep only one of them"
            )
        rows = self._read_table(tables[0]) if tables else self._list_images()
        yield from _group_rows(rows, is_table=bool(tables))

    def list_files(self, unit: Unit) -> list[str]:
        images = [name for name, *_ in unit["rows"]]
        texts = [] if unit["table"] else [posixpath.splitext(name)[0] + ".txt" for name in images]
        return [self._join(name) for name in (*images, *texts)]

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = unit["rows"]
        read_item = functools.partial(self._read_item, unit["table"])
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL_READS) as pool:
            for start in range(0, len(rows), _PARALLEL_READS):
                yield from pool.map(read_item, rows[start : start + _PARALLEL_READS])

    def read_label_names(self) -> None:
        return None

    def _read_item(self, is_table: bool, row: Row) -> Item:
        """Read an image and, if there is no table, its caption."""
        name, caption, columns = row
        if is_unsafe_name(name):
            return Item(name, problem="unsafe_name")
        item = Item(name, caption=caption, columns=columns)
        try:
            item.image = self._read_file(name)
        except tf.errors.OpError as error:
            # Other errors on gs:// concern the bucket, for example its permissions, and not the image.
            if paths.is_remote(self.folder) and not isinstance(error, _MISSING_FILE_ERRORS):
                raise
            item.problem = "missing_image"
        if not is_table and item.problem is None:
            try:
                item.caption = self._read_file(posixpath.splitext(name)[0] + ".txt")
            except tf.errors.NotFoundError:
                item.problem = "no_caption"
        return item

    def _join(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _read_file(self, name: str) -> bytes:
        with tf.io.gfile.GFile(self._join(name), "rb") as file:
            return file.read()

    def _list_images(self, folder: str = "") -> Iterator[Row]:
        """Yield the images in sorted order, because the file system's order is not reproducible."""
        subfolders = []
        names = tf.io.gfile.listdir(self._join(folder))
        for name in sorted(names, key=lambda name: name.rstrip("/")):
            path = posixpath.join(folder, name)
            if name.lower().rpartition(".")[2] in IMAGE_ENDINGS:
                yield path, None, {}
            elif self._is_folder(folder, name):
                subfolders.append(path)
        for path in subfolders:
            yield from self._list_images(path)

    def _is_folder(self, parent: str, name: str) -> bool:
        if paths.is_remote(self.folder):
            # On gs:// the names of folders end in a slash. isdir would take a request for each name.
            return len(name) > 1 and name.endswith("/")
        return tf.io.gfile.isdir(self._join(posixpath.join(parent, name)))

    def _read_table(self, table: str) -> Iterator[Row]:
        """Yield the rows of a table. Raises UserError if a row does not name an image."""
        with tf.io.gfile.GFile(self._join(table), "rb") as file:
            lines = (line.decode("utf-8", "surrogateescape") for line in file)
            rows = csv.DictReader(lines) if table.endswith(".csv") else map(_parse_json, lines)
            for number, row in enumerate(rows, 1):
                name = _find_value(row, _FILE_COLUMNS)
                if not isinstance(name, str):
                    raise UserError(
                        f"{self._join(table)}: row {number} does not name an image; it needs a column "
                        f"{' or '.join(_FILE_COLUMNS)}"
                    )
                caption = _find_value(row, _CAPTION_COLUMNS)
                yield name, caption if isinstance(caption, str) else None, select_columns(row)


def _find_value(row: dict[str, Any], columns: tuple[str, ...]) -> Any:
    """Return the first of a row's values in these columns that is not empty, or None."""
    return next((row[column] for column in columns if row.get(column)), None)


def _parse_json(line: str) -> dict[str, Any]:
    """Return a line as a JSON object, or an empty dict if it is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _group_rows(rows: Iterator[Row], is_table: bool) -> Iterator[Unit]:
    """Yield units of UNIT_SIZE rows."""
    group = []
    for row in rows:
        group.append(row)
        if len(group) == UNIT_SIZE:
            yield {"rows": group, "table": is_table}
            group = []
    if group:
        yield {"rows": group, "table": is_table}
