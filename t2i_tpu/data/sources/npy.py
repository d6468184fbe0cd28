"""Reads the three files of the baseline: imgs.npy, captions.csv and embeddings.npy."""

import math
import posixpath
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import Item, Unit, split_rows
from t2i_tpu.data.sources.tables.columns import find_columns
from t2i_tpu.data.sources.tables.csv_table import read_csv
from t2i_tpu.errors import UserError, get_first_line


class NpySource:
    """A folder with three files that have N rows each.

    imgs.npy is uint8 [N, H, W] or [N, H, W, C] with C = 1, 3 or 4. captions.csv has a heading and N rows;
    the caption is in its last column, unless only another column has a name for captions.
    embeddings.npy, [N, dim], is optional. A unit is a range of rows.

    Args:
      folder: the folder, local or gs://.
      keeps_embeddings: whether to read the embeddings.
    """

    def __init__(self, folder: str, keeps_embeddings: bool = True):
        self.folder, self.keeps_embeddings = folder, keeps_embeddings

    def list_units(self) -> Iterator[Unit]:
        images = _ArrayFile(self._join("imgs.npy"))
        _check_images(images)
        self._check_equal_counts(images.count)
        captions = self._read_captions()
        for unit in split_rows(images.count):
            count = unit["stop"] - unit["start"]
            yield unit | {"captions": [next(captions) for _ in range(count)]}

    def list_files(self, unit: Unit) -> list[str]:
        return [self._join("imgs.npy"), self._join("embeddings.npy")]

    def read(self, unit: Unit) -> Iterator[Item]:
        start, stop = unit["start"], unit["stop"]
        images = _ArrayFile(self._join("imgs.npy")).read(start, stop)
        embeddings = [None] * (stop - start)
        if self._has_embeddings():
            embeddings = _ArrayFile(self._join("embeddings.npy")).read(start, stop)
        rows = zip(images, unit["captions"], embeddings, strict=True)
        for index, (image, caption, embedding) in enumerate(rows, start):
            yield Item(f"{index:08d}", image, caption, embedding=embedding)

    def read_label_names(self) -> None:
        return None

    def _check_equal_counts(self, num_images: int) -> None:
        """Raise UserError if the files differ in their number of rows."""
        counts = {"imgs.npy": num_images, "captions.csv": sum(1 for _ in self._read_captions())}
        if self._has_embeddings():
            embeddings = _ArrayFile(self._join("embeddings.npy"))
            if embeddings.dtype.kind not in "fiu" or not embeddings.row_shape:
                raise UserError(
                    f"{embeddings.path} holds rows of {embeddings.dtype} {embeddings.row_shape}; they must "
                    "be numbers [dim]; save it again, or choose an --encoder"
                )
            counts["embeddings.npy"] = embeddings.count
        if len(set(counts.values())) > 1:
            summary = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(
                f"{self.folder}: the files have different numbers of rows ({summary}), so rows "
                "cannot be paired; save them again from the same examples (an empty line in "
                'captions.csv is not a row; write "" for an empty caption)'
            )

    def _join(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _has_embeddings(self) -> bool:
        return self.keeps_embeddings and tf.io.gfile.exists(self._join("embeddings.npy"))

    def _read_captions(self) -> Iterator[str]:
        path = self._join("captions.csv")
        if not tf.io.gfile.exists(path):
            raise UserError(f"--source=npy:{self.folder} has no captions.csv; check the path")
        for _, row in read_csv(path, names_files=False):
            yield row.get(_choose_caption(list(row)), "")


def _choose_caption(columns: list[str]) -> str:
    """Return the last column, unless only another column has a name for captions."""
    named = find_columns(columns, "caption")
    return named[0] if named and columns[-1] not in named else columns[-1]


def _check_images(images: "_ArrayFile") -> None:
    """Raise UserError if an array does not hold images."""
    shape = images.row_shape
    is_usual = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if images.dtype != np.uint8 or not is_usual or 0 in shape:
        raise UserError(
            f"{images.path} holds rows of {images.dtype} {shape}; they must be uint8 [H, W] or [H, W, C] "
            "with C = 1, 3 or 4"
        )
    if not images.count:
        raise UserError(f"{images.path} holds no images; save it again")


class _ArrayFile:
    """Reads ranges of rows from an .npy file, local or gs://.

    Attributes:
      count: number of rows.
      row_shape: shape of a row.
      dtype: type of the elements.

    Raises:
      UserError: the file cannot be read, is cut, or is not an array of rows in C order.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, is_fortran_order, self.dtype = read_header(file)
                self.offset = file.tell()
                num_bytes = file.size() - self.offset
        except Exception as error:  # broken headers raise errors of many classes
            reason = get_first_line(error)
            raise UserError(f"{path} cannot be read as .npy ({reason}); check the path") from error
        if self.dtype.hasobject:
            raise UserError(f"{path} holds Python objects; save it again as an array of numbers")
        if is_fortran_order or not shape:
            raise UserError(
                f"{path} is not an array of rows; save it with np.save(np.ascontiguousarray(rows))"
            )
        self.count, self.row_shape = shape[0], shape[1:]
        self.row_bytes = math.prod(self.row_shape) * self.dtype.itemsize
        if num_bytes < self.count * self.row_bytes:
            raise UserError(
                f"{path} ends after row {num_bytes // self.row_bytes} of {self.count}; copy the file again"
            )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop). Raises UserError if the file ends before `stop`."""
        num_bytes = (stop - start) * self.row_bytes
        with tf.io.gfile.GFile(self.path, "rb") as file:
            file.seek(self.offset + start * self.row_bytes)
            content = file.read(num_bytes)
        if len(content) != num_bytes:
            raise UserError(
                f"{self.path} ends before row {stop} of {self.count}; copy the file again"
            )
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.row_shape)
