"""The baseline's three files: imgs.npy, captions.csv and embeddings.npy, row by row."""

import csv
import os
import posixpath
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import Item, Unit, ranges
from t2i_tpu.errors import UserError


class NpySource:
    """imgs.npy uint8 [N, H, W] or [N, H, W, C]; captions.csv with a heading and N rows, of which
    the last column counts; embeddings.npy [N, dim], which need not be there."""

    def __init__(self, folder: str):
        self.folder = os.path.expanduser(folder).rstrip("/")

    def units(self) -> Iterator[Unit]:
        images = _Rows(self._path("imgs.npy"))
        if images.dtype != np.uint8 or len(images.shape) not in (2, 3):
            raise UserError(
                f"{images.path} holds {images.dtype} {images.shape}, wanted uint8 [N, H, W, C]"
            )
        counts = {"imgs.npy": images.count, "captions.csv": sum(1 for _ in self._captions())}
        if self._has_embeddings():
            counts["embeddings.npy"] = _Rows(self._path("embeddings.npy")).count
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(
                f"{self.folder}: the files differ in rows ({told}); nothing can be paired"
            )
        captions = self._captions()
        for unit in ranges(images.count):
            yield unit | {"captions": [next(captions) for _ in range(unit["stop"] - unit["start"])]}

    def read(self, unit: Unit) -> Iterator[Item]:
        start, stop = unit["start"], unit["stop"]
        images = _Rows(self._path("imgs.npy")).read(start, stop)
        embeddings = [None] * (stop - start)
        if self._has_embeddings():
            embeddings = _Rows(self._path("embeddings.npy")).read(start, stop).astype(np.float32)
        rows = zip(images, unit["captions"], embeddings, strict=True)
        for index, (image, caption, embedding) in enumerate(rows, start):
            yield Item(f"{index:08d}", image, caption, embedding=embedding)

    def label_names(self) -> None:
        return None

    def _path(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _has_embeddings(self) -> bool:
        return tf.io.gfile.exists(self._path("embeddings.npy"))

    def _captions(self) -> Iterator[str]:
        path = self._path("captions.csv")
        if not tf.io.gfile.exists(path):
            raise UserError(f"--source=npy:{self.folder}: captions.csv is missing")
        with tf.io.gfile.GFile(path, "rb") as file:
            rows = csv.reader(line.decode("utf-8", "surrogateescape") for line in file)
            next(rows, None)
            yield from (row[-1] if row else "" for row in rows)


class _Rows:
    """Rows of an .npy file, read without the rest of it, local or gs://."""

    def __init__(self, path: str):
        self.path = path
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, in_fortran_order, self.dtype = header(file)
                self.offset = file.tell()
        except (tf.errors.OpError, ValueError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read as .npy ({reason})") from error
        if in_fortran_order or self.dtype.hasobject or not shape:
            raise UserError(f"{path} is not a plain array of rows; save it again with np.save")
        self.count, self.shape = shape[0], shape[1:]

    def read(self, start: int, stop: int) -> np.ndarray:
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        with tf.io.gfile.GFile(self.path, "rb") as file:
            file.seek(self.offset + start * size)
            content = file.read((stop - start) * size)
        if len(content) != (stop - start) * size:
            raise UserError(f"{self.path} ends before row {stop}, of {self.count}; fetch it again")
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape)
