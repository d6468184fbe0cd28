"""Opens local and remote parquet files, and reads their rows even if some values are damaged."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from t2i_tpu.data.sources.file_names import GIT_LFS_START, get_ending
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.storage import paths


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
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: names not in UTF-8
        remedy = _find_remedy(path)
        raise UserError(
            f"{path} is not a parquet file ({get_first_line(error)}); {remedy}, or leave it out of the "
            "pattern"
        ) from error
    try:
        yield file
    finally:
        file.close()


def _find_remedy(path: str) -> str:
    """Return what to do about a file that is not a parquet file, judging by its name and its start."""
    with contextlib.suppress(tf.errors.OpError), tf.io.gfile.GFile(path, "rb") as file:
        if file.read(len(GIT_LFS_START)) == GIT_LFS_START:
            return "it is only a pointer of Git LFS: run git lfs pull"
    if get_ending(path) == "arrow":
        return "load it with the library datasets and save it with to_parquet"
    if get_ending(path) in ("csv", "tsv", "jsonl", "json"):
        return "for a table next to its images use --source=folder:FOLDER"
    return "copy or download it again"


def iterate_rows(
    file: Any,
    group: int,
    columns: list[str],
    batch_rows: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Yield the rows [start, stop) of a row group as {column: value}, or None for damaged rows.

    Args:
      file: a pyarrow ParquetFile.
      group: index of the row group.
      columns: the columns to read.
      batch_rows: number of rows to decode at a time.
      start: the first row. The rows before it are decoded too.
      stop: the end of the rows, or None for all.

    Raises:
      OSError: the file cannot be read from the disk.
    """
    import pyarrow

    stop = file.metadata.row_group(group).num_rows if stop is None else stop
    position = 0  # of the next batch
    try:
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns):
            part = batch.slice(max(start - position, 0), max(stop - max(start, position), 0))
            position += batch.num_rows
            for row in _to_rows(part, columns):
                start += 1
                yield row
            if position >= stop:
                return
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # a fault of the disk, not of the data
            raise
    for _ in range(start, stop):
        yield None


def _to_rows(batch: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pyarrow.RecordBatch. If columns have the same name, the first one counts."""
    indices = [batch.schema.get_all_field_indices(name)[0] for name in columns]
    values = [_to_values(batch.column(index)) for index in indices]
    for row in zip(*values, strict=True):
        yield dict(zip(columns, row, strict=True))


def _to_values(array: Any) -> list[Any]:
    """Return the values of a pyarrow.Array. Text that is not UTF-8 gets lone surrogates."""
    try:
        return array.to_pylist()
    except (ValueError, OverflowError):
        return [_to_value(scalar) for scalar in array]


def _to_value(scalar: Any) -> Any:
    """Return the value of a pyarrow.Scalar, or None if Python cannot represent it."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:  # for example a date after the year 9999
        if hasattr(scalar, "as_buffer") and isinstance(error, UnicodeDecodeError):
            return bytes(scalar.as_buffer()).decode("utf-8", "surrogateescape")
    if hasattr(scalar, "dictionary"):
        return _to_value(scalar.value)
    return [_to_value(value) for value in scalar.values] if hasattr(scalar, "values") else None


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
