"""Reads the three files of the baseline: imgs.npy, captions.csv and embeddings.npy."""

import csv
import posixpath
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import Item, Unit, split_rows
from t2i_tpu.errors import UserError, get_first_line


class NpySource:
    """A folder with three files that have N rows each.

    imgs.npy is uint8 [N, H, W] or [N, H, W, C]. captions.csv has a header and N rows; its last column
    is the caption. embeddings.npy, [N, dim], is optional. A unit is a range of rows.
    """

    def __init__(self, folder: str, keeps_embeddings: bool = True):
        self.folder, self.keeps_embeddings = folder, keeps_embeddings

    def list_units(self) -> Iterator[Unit]:
        images = _ArrayFile(self._join("imgs.npy"))
        if images.dtype != np.uint8 or len(images.row_shape) not in (2, 3):
            raise UserError(
                f"{images.path} holds rows of {images.dtype} {images.row_shape}; they must be uint8 "
                "[H, W] or [H, W, C]"
            )
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
            file = _ArrayFile(self._join("embeddings.npy"))
            embeddings = file.read(start, stop).astype(np.float32)
        rows = zip(images, unit["captions"], embeddings, strict=True)
        for index, (image, caption, embedding) in enumerate(rows, start):
            yield Item(f"{index:08d}", image, caption, embedding=embedding)

    def read_label_names(self) -> None:
        return None

    def _check_equal_counts(self, num_images: int) -> None:
        """Raise UserError if the files differ in their number of rows."""
        counts = {"imgs.npy": num_images, "captions.csv": sum(1 for _ in self._read_captions())}
        if self._has_embeddings():
            counts["embeddings.npy"] = _ArrayFile(self._join("embeddings.npy")).count
        if len(set(counts.values())) > 1:
            summary = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(
                f"{self.folder}: the files have different numbers of rows ({summary}), so rows "
                "cannot be paired; save them again from the same examples"
            )

    def _join(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _has_embeddings(self) -> bool:
        return self.keeps_embeddings and tf.io.gfile.exists(self._join("embeddings.npy"))

    def _read_captions(self) -> Iterator[str]:
        path = self._join("captions.csv")
        if not tf.io.gfile.exists(path):
            raise UserError(f"--source=npy:{self.folder} has no captions.csv; check the path")
        with tf.io.gfile.GFile(path, "rb") as file:
            rows = csv.reader(line.decode("utf-8", "surrogateescape") for line in file)
            next(rows, None)  # skip the header
            yield from (row[-1] if row else "" for row in rows)


class _ArrayFile:
    """Reads ranges of rows from an .npy file, local or gs://.

    Attributes:
      count: number of rows.
      row_shape: shape of a row.
      dtype: type of the elements.

    Raises:
      UserError: the file cannot be read, or is not an array of rows in C order.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, is_fortran_order, self.dtype = read_header(file)
                self.offset = file.tell()
        except (tf.errors.OpError, ValueError, AttributeError) as error:
            reason = get_first_line(error)
            raise UserError(f"{path} cannot be read as .npy ({reason}); check the path") from error
        if is_fortran_order or self.dtype.hasobject or not shape:
            raise UserError(f"{path} is not a plain array of rows; save it again with np.save")
        self.count, self.row_shape = shape[0], shape[1:]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows [start, stop). Raises UserError if the file ends before `stop`."""
        row_bytes = int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize
        num_bytes = (stop - start) * row_bytes
        with tf.io.gfile.GFile(self.path, "rb") as file:
            file.seek(self.offset + start * row_bytes)
            content = file.read(num_bytes)
        if len(content) != num_bytes:
            raise UserError(
                f"{self.path} ends before row {stop} of {self.count}; get the file again"
            )
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.row_shape)
