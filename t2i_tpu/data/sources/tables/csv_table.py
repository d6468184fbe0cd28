"""Reads tables with columns separated by commas, semicolons, tabs or vertical bars."""

import collections
import csv
import itertools
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, get_ending
from t2i_tpu.data.sources.tables.columns import explain_missing_column, find_column, list_names
from t2i_tpu.data.sources.tables.text_lines import read_lines
from t2i_tpu.errors import UserError, shorten

_DELIMITERS = ",;\t|"
# A longer field is taken for one whose quotation mark is never closed.
_MAX_FIELD_CHARACTERS = 1 << 20
csv.field_size_limit(_MAX_FIELD_CHARACTERS)


class _Record(NamedTuple):
    """A row of a table, or its heading. `number` counts rows, and `line` lines, from 1."""

    number: int
    line: int
    text: str
    fields: list[str]
    is_quoted: bool


def read_csv(path: str, names_files: bool = True) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row as (number, values by column). A row may lack values at its end.

    The delimiter is the one that fits the heading best. Lines that are empty or consist of delimiters are
    skipped. In a table of one or two columns, captions may contain the delimiter without quotation marks.

    Args:
      path: path of the table, local or gs://.
      names_files: whether the table must have a column with the names of images.

    Raises:
      UserError: no column has the names of images, a quotation mark is not closed, or a row has too
        many fields.
    """
    lines = _number_lines(path)
    heading = next(lines, None)
    if heading is None:
        return
    options = _choose_format(heading[1])
    (columns,) = csv.reader([heading[1]], **options)
    columns = [column.replace("\ufeff", "").strip() for column in columns]
    # If there is a third column, even without a name, the third field of a row is not part of a caption.
    width = len(columns)
    while columns and not columns[-1]:
        columns.pop()
    _check_unique(path, columns)
    file_column = find_column(columns, "file")
    if names_files and not file_column:
        remedy = ""
        if any(map(_is_image, columns)):
            remedy = "; if its first row is no heading, add file_name,text above it"
        raise UserError(explain_missing_column(path, columns, "file") + remedy)
    file_index = columns.index(file_column) if file_column else 0
    for record in _read_records(path, lines, options):
        if _contains_row(record, options["delimiter"], file_index):
            _fail(path, record, "has a quotation mark that is not closed; close or remove it")
        fields = _fit(path, record, columns, options["delimiter"], width)
        yield record.number, dict(zip(columns, fields, strict=False))


def _number_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line), without empty lines at the top and Excel's line `sep=;`."""
    numbered = enumerate(read_lines(path), 1)
    for number, line in numbered:
        if line.strip() and not (line.lower().startswith("sep=") and len(line) <= 5):
            yield number, line
            break
    yield from numbered


def _choose_format(heading: str) -> dict:
    """Return the options of csv.reader with which the heading has most of the needed columns."""

    def count_columns(delimiter: str) -> tuple[int, int]:
        (names,) = csv.reader([heading], delimiter=delimiter)
        needed = sum(find_column(names, holding) is not None for holding in ("file", "caption"))
        return needed, len(names)

    delimiter = max(_DELIMITERS, key=count_columns)
    return dict(delimiter=delimiter, skipinitialspace=f"{delimiter} " in heading)


def _check_unique(path: str, columns: list[str]) -> None:
    """Raise UserError if there are two columns with the name of the column of files or captions."""
    counts = collections.Counter(columns)
    for holding in ("file", "caption"):
        name = find_column(columns, holding)
        if counts[name] > 1:
            raise UserError(f"{path} has {counts[name]} columns named {name}; rename all but one")


def _read_records(path: str, lines: Iterator[tuple[int, str]], options: dict) -> Iterator[_Record]:
    """Yield the rows after the heading. Raises UserError if one cannot be parsed."""
    number = 0
    for line_number, line in lines:
        if not line.strip(options["delimiter"] + " \t"):  # spreadsheets write lines of delimiters
            continue
        number += 1
        record = _Record(number, line_number, line, [], '"' in line)
        if not record.is_quoted:
            separated = line.split(options["delimiter"])
            if options["skipinitialspace"]:
                separated = [field.lstrip(" ") for field in separated]
            yield record._replace(fields=separated)
            continue
        used = [line]
        following = (used.append(text) or text for _, text in lines)
        texts = (text + "\n" for text in itertools.chain([line], following))
        try:
            fields = next(csv.reader(texts, strict=True, **options))
        except csv.Error:
            if len(used) > 1:
                _fail(path, record, "has a quotation mark that is not closed; close or remove it")
            if len(line) > _MAX_FIELD_CHARACTERS:
                _fail(path, record, "is longer than a million characters; shorten it")
            fields = _parse_loosely(line, options)
        yield record._replace(fields=fields)


def _parse_loosely(line: str, options: dict) -> list[str]:
    r"""Return the fields of a line that has quotation marks within quotation marks.

    They are either escaped as \", or not escaped at all.
    """
    if '\\"' in line:
        try:
            escaped = dict(escapechar="\\", doublequote=False, strict=True)
            return next(csv.reader([line], **options, **escaped))
        except csv.Error:
            pass
    return next(csv.reader([line], **options))


def _contains_row(record: _Record, delimiter: str, file_index: int) -> bool:
    """Return whether a field continues over a line that is itself a row of the table.

    Such a field begins with a quotation mark that is not closed, and ends at one in a later row. That is
    valid csv.
    """
    lines = (
        line.split(delimiter)
        for field in (record.fields if record.is_quoted else ())
        for line in field.split("\n")[1:]
    )
    return any(
        len(values) > max(file_index, 1) and _is_image(values[file_index]) for values in lines
    )


def _is_image(field: str) -> bool:
    return get_ending(field.strip(' "')) in IMAGE_ENDINGS


def _fit(path: str, record: _Record, columns: list[str], delimiter: str, width: int) -> list[str]:
    """Return at most one field for each column. Raises UserError if there are too many."""
    fields = list(record.fields)
    while len(fields) > len(columns) and not fields[-1].strip():
        fields.pop()
    if len(fields) <= len(columns):
        return fields
    if len(fields) == len(columns) + 1 and _starts_with_row_name(fields, columns):
        return fields[1:]
    if width == 1 and not record.is_quoted:
        return [record.text]
    if width == 2 and not record.is_quoted:
        if find_column(columns[1:], "file"):
            return record.text.rsplit(delimiter, 1)
        if find_column(columns[:1], "file") and not _starts_with_row_name(fields, columns):
            return record.text.split(delimiter, 1)
    name = {"\t": "tabs"}.get(delimiter, repr(delimiter))
    _fail(
        path,
        record,
        f"has {len(fields)} fields, but there are {len(columns)} columns ({list_names(columns)}); put "
        f"quotation marks around a caption that contains {name}",
    )


def _starts_with_row_name(fields: list[str], columns: list[str]) -> bool:
    """Return whether a row begins with a field that is not in the heading, as R writes tables."""
    file_column = find_column(columns, "file")
    index = columns.index(file_column) if file_column else -1
    # In a table of two columns, a caption before the image may have a comma.
    if index < 0 or (index > 0 and len(columns) == 2):
        return False
    return _is_image(fields[index + 1]) and not _is_image(fields[index])


def _fail(path: str, record: _Record, problem: str) -> NoReturn:
    """Raise UserError with the place and the beginning of a row."""
    place = f"{path}: row {record.number} (line {record.line})"
    raise UserError(f"{place} {problem}: {shorten(record.text)}")
