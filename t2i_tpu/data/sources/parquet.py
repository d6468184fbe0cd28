"""Reads parquet files with columns of image bytes and captions, as in Hugging Face's data sets."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import (
    Item,
    Unit,
    expand_pattern,
    find_column,
    get_stem,
    select_columns,
)
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.storage import paths

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
_CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "TEXT", "txt")
_KEY_COLUMNS = ("key", "__key__", "id", "image_id")
_BATCH_ROWS = 64  # number of rows to decode at a time


class ParquetSource:
    """Parquet files of images. A unit is a row group of a file."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def list_units(self) -> Iterator[Unit]:
        for path in expand_pattern(self.pattern, "parquet"):
            with open_parquet(path) as file:
                names, num_groups = file.schema_arrow.names, file.num_row_groups
            if not find_column(names, _IMAGE_COLUMNS):
                raise UserError(
                    f"{path} has no column of images ({', '.join(_IMAGE_COLUMNS)}), only "
                    f"{', '.join(names)}; rename the column of images, or use --source=urls:FILE if "
                    "this is a list of URLs"
                )
            for group in range(num_groups):
                yield {"file": path, "group": group}

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        index = 0
        with open_parquet(unit["file"]) as file:
            names = file.schema_arrow.names
            image_column = find_column(names, _IMAGE_COLUMNS)
            caption_column = find_column(names, _CAPTION_COLUMNS)
            key_column = find_column(names, _KEY_COLUMNS)
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[unit["group"]]):
                for row in batch.to_pylist():
                    key = f"{get_stem(unit['file'])}-{unit['group']:04d}-{index:06d}"
                    index += 1
                    if key_column:
                        key = str(row[key_column])
                    caption = row[caption_column] if caption_column else None
                    yield _make_item(key, row[image_column], caption, row)

    def read_label_names(self) -> tuple[str, ...] | None:
        """Return the class names of the feature `label` in Hugging Face's metadata, or None."""
        with open_parquet(expand_pattern(self.pattern, "parquet")[0]) as file:
            metadata = (file.schema_arrow.metadata or {}).get(b"huggingface")
        try:
            features = json.loads(metadata)["info"]["features"]
            return tuple(features["label"]["names"])
        except (TypeError, KeyError, ValueError):
            return None


def _make_item(key: str, image: Any, caption: Any, row: dict[str, Any]) -> Item:
    """Return the item of a row. The values of its image and caption may have any type."""
    if isinstance(image, dict):
        image = image.get("bytes")
    if isinstance(caption, list) and caption:
        caption = caption[0]
    item = Item(key, image, caption if isinstance(caption, (str, bytes)) else None)
    if not isinstance(image, bytes):
        item.image, item.problem = None, "missing_image"
    if row.get("embedding") is not None:
        item.embedding = np.array(row["embedding"], np.float32)
    if isinstance(row.get("label"), int):
        item.label = row["label"]
    item.columns = select_columns(row)
    return item


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """Open a local or gs:// path as a pyarrow ParquetFile.

    Raises:
      UserError: pyarrow is not installed, or the file is not a parquet file.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "reading parquet files needs pyarrow; pip install -e '.[prepare]'"
        ) from None
    try:
        source = pyarrow.PythonFile(_SeekableFile(path), "r") if paths.is_remote(path) else path
        file = pyarrow.parquet.ParquetFile(source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = get_first_line(error)
        raise UserError(f"{path} is not a parquet file ({reason}); get the file again") from error
    try:
        yield file
    finally:
        file.close()


class _SeekableFile:
    """Gives a file of tf.io.gfile the interface that pyarrow needs."""

    closed = False

    def __init__(self, path: str):
        self.file = tf.io.gfile.GFile(path, "rb")
        self.read, self.tell = self.file.read, self.file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        self.file.seek(offset, whence)
        return self.file.tell()

    def close(self) -> None:
        self.closed = True
        self.file.close()
