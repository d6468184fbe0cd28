"""Reads tables that name the images of a folder and their captions: csv, tsv, jsonl, json and parquet."""

import functools
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from t2i_tpu.data.sources.file_names import get_ending
from t2i_tpu.data.sources.source import select_columns
from t2i_tpu.data.sources.tables.columns import explain_missing_column, find_column, find_columns
from t2i_tpu.data.sources.tables.csv_table import read_csv
from t2i_tpu.data.sources.tables.json_table import read_json, read_json_lines
from t2i_tpu.data.sources.tables.parquet_file import open_parquet
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.storage import paths

_STEMS = ("metadata", "captions")
# Files of these endings are meant to be tables. Those of other endings may hold something else.
MAIN_TABLE_ENDINGS = ("jsonl", "csv")
# Each row is (number, values by column).
Rows = Iterable[tuple[int, Mapping[str, Any]]]


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
      number: number of the row, from 1.
      file: the name of the image, as the table spells it, or None.
      caption: the caption, as any value that JSON can hold.
      columns: the numbers and strings of the row by column.
    """

    number: int
    file: str | None
    caption: Any
    columns: dict[str, Any]


def is_table(name: str) -> bool:
    """Return whether a file's name is one of those under which tables are looked for."""
    stem, _ = posixpath.splitext(name.lower())
    return stem in _STEMS and get_ending(name) in _READERS


def has_table_ending(name: str) -> bool:
    """Return whether a file could be a table to judge by its ending. A .txt is taken for a caption."""
    return get_ending(name) in _READERS.keys() - {"txt"}


def read_table(path: str) -> Iterator[TableRow]:
    """Yield the rows of a table.

    If there is no column of captions, a column of labels is used, which must be text.

    Raises:
      UserError: the table cannot be read, has no rows, or lacks a column of images or captions.
    """
    return _interpret_rows(path, _read_rows(path))


def check_table(path: str) -> None:
    """Raise UserError if `read_table` cannot use the columns or the first row of a table."""
    for _ in _interpret_rows(path, itertools.islice(_read_rows(path), 1)):
        pass


def _read_rows(path: str) -> Rows:
    try:
        yield from _READERS[get_ending(path)](path)
    except tf.errors.OpError as error:
        if paths.is_remote(path):
            raise
        raise UserError(f"{path} cannot be read ({get_first_line(error)})") from error


def _interpret_rows(path: str, rows: Rows) -> Iterator[TableRow]:
    """Yield the file and the caption of each row. See `read_table`."""
    first_names, has_captions, is_warned = None, False, False
    for number, row in rows:
        if first_names is None:
            first_names = list(row)
            if not find_column(row, "file"):
                raise UserError(explain_missing_column(path, row, "file"))
            _check_labels(path, row)
        is_warned = is_warned or _warn_of_encoding(path, number, row)
        files, captions = _find_file_and_caption_columns(tuple(row))
        has_captions |= bool(captions)
        file = _get_file_name(_find_value(row, files))
        caption = _to_json(_find_value(row, captions))
        yield TableRow(number, file, caption, select_columns(row))
    if first_names is None:
        raise UserError(f"{path} has no rows; write one row for each image, or remove the table")
    if not has_captions:
        raise UserError(explain_missing_column(path, first_names, "caption"))


@functools.lru_cache
def _find_file_and_caption_columns(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    captions = find_columns(names, "caption") or find_columns(names, "label")
    return find_columns(names, "file"), captions


def _check_labels(path: str, row: Mapping[str, Any]) -> None:
    """Raise UserError if labels would have to be the captions, but are numbers."""
    label = find_column(row, "label")
    if find_column(row, "caption") or not label:
        return
    if not isinstance(row[label], str) or row[label].strip().lstrip("-").isdigit():
        message = explain_missing_column(path, row, "caption")
        raise UserError(f"{message}; the labels in {label} are numbers, which cannot be captions")


def _find_value(row: Mapping[str, Any], columns: list[str]) -> Any:
    """Return the first of a row's values in these columns that is not empty, or the first one."""
    values = [row[column] for column in columns] or [None]
    return next((value for value in values if value not in (None, "", [], {})), values[0])


def _to_json(value: Any) -> Any:
    """Return a caption as a value that JSON can hold. Bytes that are not UTF-8 become surrogates."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_to_json(element) for element in value]
    return value if isinstance(value, (str, int, float, dict, type(None))) else str(value)


def _get_file_name(value: Any) -> str | None:
    """Return the name of a file from its column, or None if the value is not a name."""
    if isinstance(value, dict):  # an image as Hugging Face stores it
        value = value.get("path")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value.strip() else None


def _warn_of_encoding(path: str, number: int, row: Mapping[str, Any]) -> bool:
    """Log a warning and return True if a row is not UTF-8."""
    try:
        for value in row.values():
            if isinstance(value, str):
                value.encode()
    except UnicodeEncodeError:
        logging.log_first_n(  # a table is read more than once
            logging.WARNING,
            "%s: row %d is not UTF-8. Such rows are rejected; save the table again as UTF-8 (in Excel: "
            "'CSV UTF-8').",
            1,
            path,
            number,
        )
        return True
    return False


def _read_parquet(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


_READERS = {
    "jsonl": read_json_lines,
    "csv": read_csv,
    "tsv": read_csv,
    "txt": read_csv,
    "json": read_json,
    "parquet": _read_parquet,
}
