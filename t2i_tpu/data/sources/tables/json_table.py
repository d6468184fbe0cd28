"""Reads tables in JSON: one object per line, a list of objects, or captions by the name of the file."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from t2i_tpu.data.sources.tables.columns import find_column
from t2i_tpu.data.sources.tables.text_lines import read_lines
from t2i_tpu.errors import UserError, get_first_line, shorten

Row = dict[str, Any]
_FORMS = 'a list of objects with a file_name and a text, or an object {"FILE": "CAPTION", ...}'


def read_json_lines(path: str) -> Iterator[tuple[int, Row]]:
    """Yield each line as (number, object). Blank lines are skipped, and a list is read by `read_json`.

    Raises:
      UserError: a line is not a JSON object.
    """
    number = 0
    for line_number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        number += 1
        if number == 1 and line.lstrip().startswith("["):
            yield from read_json(path)
            return
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: line {line_number} is not JSON ({_explain(error)}); each line must be a "
                f"JSON object: {shorten(line)}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: line {line_number} is not a JSON object, such as "
                f'{{"file_name": "a.png", "text": "a cat"}}: {shorten(line)}'
            )
        yield number, row


def read_json(path: str) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a JSON file as (number, object). JSON lines are read by `read_json_lines`.

    Raises:
      UserError: the file is not JSON, or in none of the known forms.
    """
    text = "\n".join(read_lines(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data" and text.lstrip().startswith("{"):
            yield from read_json_lines(path)
            return
        raise UserError(f"{path} is not JSON ({_explain(error)}); it must be {_FORMS}") from None
    rows = _list_rows(content)
    if rows is None:
        raise UserError(f"{path} is JSON of an unknown form; it must be {_FORMS}")
    yield from enumerate(rows, 1)


def _list_rows(content: Any) -> list[Row] | None:
    """Return the rows of parsed JSON, or None if it has none of the known forms."""
    if isinstance(content, list):
        return content if all(isinstance(row, dict) for row in content) else None
    if not isinstance(content, dict):
        return None
    if _is_list_of_objects(content.get("images")) and _is_list_of_objects(
        content.get("annotations")
    ):
        return _join_coco(content["images"], content["annotations"])
    values = list(content.values())
    file_column = find_column(content, "file")
    if file_column and all(isinstance(value, dict) for value in values):
        return _join_columns(content, content[file_column])
    if file_column and all(isinstance(value, list) for value in values):
        columns = {name: dict(enumerate(value)) for name, value in content.items()}
        return _join_columns(columns, columns[file_column])
    if len(values) == 1 and _is_list_of_objects(values[0]):  # {"data": [...]}
        return values[0]
    if all(isinstance(value, dict) for value in values):
        return [{"file_name": name} | value for name, value in content.items()]
    if all(isinstance(value, (str, list)) for value in values):
        return [{"file_name": name, "text": value} for name, value in content.items()]
    return None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _join_columns(columns: Mapping[str, Mapping], index: Mapping) -> list[Row]:
    """Return the rows of columns, which pandas writes as {column: {row: value}}."""
    return [{name: column.get(row) for name, column in columns.items()} for row in index]


def _join_coco(images: list[Row], annotations: list[Row]) -> list[Row]:
    """Return a row for each annotation of an image, in the format of COCO's captions."""
    names = {image.get("id"): image.get("file_name") for image in images}
    return [
        {"file_name": names.get(annotation.get("image_id"))} | annotation
        for annotation in annotations
    ]


def _explain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return get_first_line(error)
