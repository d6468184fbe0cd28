"""Parquet files with image bytes and captions in columns, as Hugging Face's data sets have them."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import Item, Unit, files_of, stem_of
from t2i_tpu.errors import UserError

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
_CAPTIONS = ("text", "caption", "captions", "prompt", "TEXT", "txt")
_KEYS = ("key", "__key__", "id", "image_id")
_ROWS = 64  # decoded at a time


class ParquetSource:
    """A unit is a row group of a file."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def units(self) -> Iterator[Unit]:
        for file in files_of(self.pattern, "parquet"):
            with open_parquet(file) as table:
                if not first_of(table.schema_arrow.names, _IMAGES):
                    raise UserError(
                        f"{file} has no column of images ({', '.join(_IMAGES)}), only "
                        f"{', '.join(table.schema_arrow.names)}; rename one, or is it a list of "
                        "URLs (--source=urls:FILE)?"
                    )
                groups = table.num_row_groups
            for group in range(groups):
                yield {"file": file, "group": group}

    def read(self, unit: Unit) -> Iterator[Item]:
        row = 0
        with open_parquet(unit["file"]) as table:
            names = table.schema_arrow.names
            image, caption = first_of(names, _IMAGES), first_of(names, _CAPTIONS)
            key = first_of(names, _KEYS)
            for batch in table.iter_batches(_ROWS, row_groups=[unit["group"]]):
                for values in batch.to_pylist():
                    number = f"{stem_of(unit['file'])}-{unit['group']:04d}-{row:06d}"
                    row += 1
                    yield _item(str(values[key]) if key else number, values, image, caption)

    def label_names(self) -> tuple[str, ...] | None:
        """Of a column `label` that Hugging Face's metadata call a ClassLabel."""
        with open_parquet(files_of(self.pattern, "parquet")[0]) as table:
            metadata = (table.schema_arrow.metadata or {}).get(b"huggingface")
        try:
            features = json.loads(metadata)["info"]["features"]
            return tuple(features["label"]["names"])
        except (TypeError, KeyError, ValueError):
            return None


def _item(key: str, values: dict[str, Any], image: str, caption: str | None) -> Item:
    content = values[image]
    content = content.get("bytes") if isinstance(content, dict) else content
    text = values[caption] if caption else None
    text = text[0] if isinstance(text, list) and text else text
    item = Item(key, content, text if isinstance(text, (str, bytes)) else None)
    if not isinstance(content, bytes):
        item.image, item.problem = None, "missing_image"
    if values.get("embedding") is not None:
        item.embedding = np.array(values["embedding"], np.float32)
    if isinstance(values.get("label"), int):
        item.label = values["label"]
    rest = {name: value for name, value in values.items() if isinstance(value, (int, float, str))}
    item.columns = rest
    return item


def first_of(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    """The first of the known names that is there."""
    return next((name for name in known if name in names), None)


class open_parquet:
    """A ParquetFile of a local or gs:// path, closed at the end."""

    def __init__(self, path: str):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UserError("parquet needs pyarrow; pip install -e '.[prepare]'") from None
        try:
            source = pyarrow.PythonFile(_Seekable(path), "r") if "://" in path else path
            self.table = pyarrow.parquet.ParquetFile(source)
        except (pyarrow.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is not a parquet file ({reason}); fetch it again") from error

    def __enter__(self):
        return self.table

    def __exit__(self, *_):
        self.table.close()


class _Seekable:
    """What pyarrow asks of a file, of tf.io.gfile's."""

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
