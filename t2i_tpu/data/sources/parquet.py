"""Reads parquet files with columns of image bytes and captions, as in Hugging Face's data sets."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from t2i_tpu.data.sources import parquet_columns
from t2i_tpu.data.sources.patterns import expand_pattern, name_files
from t2i_tpu.data.sources.source import Item, Unit, select_columns
from t2i_tpu.data.sources.tables.columns import explain_missing_column, find_column
from t2i_tpu.data.sources.tables.parquet_file import iterate_rows, open_parquet
from t2i_tpu.errors import UserError

_BATCH_ROWS = 64  # number of rows to decode at a time


class _Columns(NamedTuple):
    """The names of the columns that are read from a file.

    Attributes:
      image: the images.
      captions: the captions, best first. Without any, the names of the labels are the captions.
      key: the keys, or None.
      label: the labels, or None.
      embedding: the embeddings, or None.
      others: numbers and text, which filters can use.
      problem: a line that says why every row will be rejected, or None.
    """

    image: str
    captions: list[str]
    key: str | None
    label: str | None
    embedding: str | None
    others: list[str]
    problem: str | None

    def list_names(self) -> list[str]:
        """Return the names of all columns."""
        names = self.image, *self.captions, self.key, self.label, self.embedding, *self.others
        return list(dict.fromkeys(name for name in names if name))


class ParquetSource:
    """Parquet files of images. A unit is a row group of a file.

    Args:
      pattern: a path or pattern of the files.
      keeps_embeddings: whether to read the embeddings.
    """

    def __init__(self, pattern: str, keeps_embeddings: bool = True):
        self.pattern, self.keeps_embeddings = pattern, keeps_embeddings

    def list_units(self) -> Iterator[Unit]:
        units, problems = [], []
        for path, name in name_files(self._paths).items():
            with open_parquet(path) as file:
                if file.metadata.num_rows:
                    problems.append(self._choose_columns(path, file.schema_arrow).problem)
                    for group in range(file.num_row_groups):
                        units.append({"file": path, "name": name, "group": group})
        if problems and all(problems):
            raise UserError(problems[0])
        yield from units

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        prefix = f"{unit['name']}-{unit['group']:04d}"
        with open_parquet(unit["file"]) as file:
            columns = self._choose_columns(unit["file"], file.schema_arrow)
            rows = iterate_rows(file, unit["group"], columns.list_names(), _BATCH_ROWS)
            for index, row in enumerate(rows):
                key = f"{prefix}-{index:06d}"
                if row is None:
                    yield Item(key, problem="damaged_row_group")
                else:
                    yield _make_item(key, row, columns, self.read_label_names())

    def read_label_names(self) -> tuple[str, ...] | None:
        """Return the class names of the labels in Hugging Face's metadata, or None."""
        return self._labels and self._labels[1]

    @functools.cached_property
    def _paths(self) -> list[str]:
        return expand_pattern(self.pattern, "parquet")

    @functools.cached_property
    def _labels(self) -> tuple[str, tuple[str, ...]] | None:
        """The column of labels and the class names of the first file that has rows."""
        for path in self._paths:
            with open_parquet(path) as file:
                if file.metadata.num_rows:
                    return parquet_columns.find_class_names(file.schema_arrow)
        return None

    def _choose_columns(self, path: str, schema: Any) -> _Columns:
        """Return the columns to read. Raises UserError if a needed column is missing."""
        url = find_column(schema.names, "url")
        if url and not find_column(schema.names, "image"):
            message = explain_missing_column(path, schema.names, "image")
            raise UserError(f"{message}, or download the images with --source=urls:{self.pattern}")
        image, image_problem = self._choose_images(path, schema)
        captions, caption_problem = self._choose_captions(path, schema)
        return _Columns(
            image=image,
            captions=captions,
            key=next(iter(parquet_columns.find_usable_columns(schema, "key")), None),
            label=self._choose_label(path, schema),
            embedding=self._choose_embedding(path, schema),
            others=parquet_columns.find_simple_columns(schema),
            problem=image_problem or caption_problem,
        )

    def _choose_images(self, path: str, schema: Any) -> tuple[str, str | None]:
        """Return the column of images, and a problem if it is empty."""
        if images := parquet_columns.find_usable_columns(schema, "image"):
            return images[0], None
        problem = parquet_columns.explain_unusable(path, schema, "image")
        if empty := parquet_columns.find_empty_columns(schema, "image"):
            return empty[0], problem
        raise UserError(problem)

    def _choose_captions(self, path: str, schema: Any) -> tuple[list[str], str | None]:
        """Return the columns of captions, and a problem if they are empty.

        There are no columns if the names of the labels are the captions.
        """
        captions = parquet_columns.find_usable_columns(schema, "caption")
        if captions or self._labels:
            return captions, None
        labels = parquet_columns.find_usable_columns(schema, "label")
        if labels and parquet_columns.describe_column(schema, labels[0]) == "text":
            return labels, None
        problem = parquet_columns.explain_unusable(path, schema, "caption")
        if labels:
            problem += (
                f"; the labels in {labels[0]!r} are numbers without names, which cannot be captions"
            )
        if empty := parquet_columns.find_empty_columns(schema, "caption"):
            return empty, problem
        raise UserError(problem)

    def _choose_embedding(self, path: str, schema: Any) -> str | None:
        """Return the column of embeddings to read, or None."""
        if not self.keeps_embeddings:
            return None
        embeddings = parquet_columns.find_usable_columns(schema, "embedding")
        empty = parquet_columns.find_empty_columns(schema, "embedding")
        if "embedding" in schema.names and "embedding" not in empty and not embeddings:
            raise UserError(parquet_columns.explain_unusable(path, schema, "embedding"))
        return embeddings[0] if embeddings else None

    def _choose_label(self, path: str, schema: Any) -> str | None:
        """Return the column of labels. Raises UserError if it differs from the first file's."""
        if not self._labels:
            return None
        label, names = parquet_columns.find_class_names(schema) or self._labels
        is_usable = label in schema.names and (
            parquet_columns.describe_column(schema, label) == "numbers"
        )
        if not is_usable or names != self._labels[1]:
            raise UserError(
                f"{path} does not have the labels of {self._paths[0]} (column {self._labels[0]!r}); "
                "prepare the two separately"
            )
        return label


def _make_item(
    key: str, row: Mapping[str, Any], columns: _Columns, class_names: tuple[str, ...] | None
) -> Item:
    """Return the item of a row. `key` is used if the row has none."""
    image = row[columns.image]
    path = None
    if isinstance(image, dict):
        image, path = image.get("bytes"), image.get("path")
    item = Item(_get_key(row[columns.key] if columns.key else None) or key, image)
    item.columns = select_columns(row)
    captions = [row[name] for name in columns.captions]
    item.caption = captions[0] if len(captions) == 1 else captions
    if columns.embedding:
        item.embedding = row[columns.embedding]
    if columns.label:
        item.label = _to_index(row[columns.label])
        if not columns.captions and item.label in range(len(class_names)):
            item.caption = class_names[item.label]
        elif not columns.captions:
            item.problem = "bad_label"
    if not isinstance(image, bytes):
        item.image, item.problem = None, "path_without_image" if path else "missing_image"
    return item


def _get_key(value: Any) -> str | None:
    """Return the value of a column of keys as text, or None if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _to_index(label: Any) -> int | None:
    """Return a label as an integer, or None. A column in which labels are missing may hold floats."""
    is_whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
    return int(label) if is_whole else None
