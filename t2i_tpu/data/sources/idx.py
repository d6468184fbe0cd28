"""Reads folders of four idx files, the format of MNIST and of similar data sets."""

import functools
import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.records import Record
from t2i_tpu.data.sources.source import Item, Unit, split_rows
from t2i_tpu.data.sources.tables.text_lines import read_lines
from t2i_tpu.errors import UserError, get_first_line

_PREFIXES = {"train": "train", "heldout": "t10k"}
_LABELS_FILE = "labels.txt"
_UNSIGNED_BYTE = 0x08  # the format's code for uint8, the only element type that is supported

_FASHION_MNIST_TRAIN_LABELS_SHA256 = (
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
)
_FASHION_MNIST_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class IdxSource:
    """A folder of four idx files. A unit is a range of rows of one split."""

    def __init__(self, folder: str):
        self.folder = folder
        self._read_records = functools.lru_cache(maxsize=2)(self._read_records)

    def list_units(self) -> Iterator[Unit]:
        for split in _PREFIXES:
            for rows in split_rows(len(self._read_records(split))):
                yield rows | {"split": split}

    def list_files(self, unit: Unit) -> list[str]:
        prefix = _PREFIXES[unit["split"]]
        stems = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        return [*(_find(self.folder, stem) for stem in stems), f"{self.folder}/{_LABELS_FILE}"]

    def read(self, unit: Unit) -> Iterator[Item]:
        records = self._read_records(unit["split"])
        for record in records[unit["start"] : unit["stop"]]:
            image = record.image[:, :, 0]
            yield Item(record.key, image, record.caption, record.label, split=unit["split"])

    def read_label_names(self) -> tuple[str, ...]:
        return read_label_names(self.folder)

    def _read_records(self, split: str) -> list[Record]:
        return list(read_idx(self.folder, split))


def read_idx(folder: str, split: str) -> Iterator[Record]:
    """Read the records of one split, in the order of the files.

    Args:
      folder: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same two
        files with the prefix `t10k-`, each gzipped (.gz) or not.
      split: "train", or "heldout" for the `t10k-` files.

    Returns:
      An iterator of records with an image, uint8 [rows, columns, 1], a label, and the label's name
      as the caption.

    Raises:
      UserError: a file is missing, empty, truncated or not in idx format, the numbers of images and
        labels differ, or a label has no name. The call raises it, not the iteration.
    """
    prefix = _PREFIXES[split]
    images = _read_array(_find(folder, f"{prefix}-images-idx3-ubyte"), ndim=3)
    labels = _read_array(_find(folder, f"{prefix}-labels-idx1-ubyte"), ndim=1)
    names = read_label_names(folder)
    if len(images) != len(labels):
        raise UserError(
            f"{folder!r} has {len(images)} images and {len(labels)} labels in its {prefix}- files; "
            "get both files from the same data set"
        )
    if labels.max() >= len(names):
        raise UserError(
            f"{folder!r} has label {labels.max()} in its {prefix}- files but only {len(names)} "
            f"label names; list a name for each label in {_LABELS_FILE}, one per line"
        )
    return (
        Record(f"{split}-{index:06d}", image[:, :, None], caption=names[label], label=int(label))
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    )


def read_label_names(folder: str) -> tuple[str, ...]:
    """Return the names of the labels, which idx files do not contain.

    They are the lines of `labels.txt` if the folder has that file, Fashion MNIST's names if the
    training labels have the same content as Fashion MNIST's, and otherwise "0", "1", ...
    """
    path = os.path.join(folder, _LABELS_FILE)
    if tf.io.gfile.exists(path):
        return _read_names(path)
    path = _find(folder, "train-labels-idx1-ubyte")
    if hashlib.sha256(_read_bytes(path)).hexdigest() == _FASHION_MNIST_TRAIN_LABELS_SHA256:
        return _FASHION_MNIST_NAMES
    return tuple(str(label) for label in range(_read_array(path, ndim=1).max() + 1))


def _read_names(path: str) -> tuple[str, ...]:
    """Return the lines of a file. Raises UserError if one of them is not a name."""
    names = [line.strip() for line in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, 1):
        if not name or name.encode("utf-8", "replace").decode() != name:
            raise UserError(
                f"{path}: line {number} is {'not UTF-8' if name else 'empty'}; list a name for each "
                "label, one per line"
            )
    return tuple(names)


def compute_fingerprint(folder: str) -> str:
    """Return a SHA-256 in hex of everything on which the records depend."""
    digest = hashlib.sha256("\n".join(read_label_names(folder)).encode())
    for prefix in _PREFIXES.values():
        for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
            digest.update(hashlib.sha256(_read_bytes(_find(folder, stem))).digest())
    return digest.hexdigest()


def _find(folder: str, stem: str) -> str:
    """Return the path of a file, gzipped or not. Raises UserError if it does not exist."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (os.path.join(folder, name), os.path.join(folder, f"{name}.gz")):
            if tf.io.gfile.exists(path):
                return path
    raise UserError(
        f"idx folder {folder!r} has no {stem}.gz or {stem}; it must contain the images and labels "
        "of both splits, train- and t10k-"
    )


def _read_array(path: str, ndim: int) -> np.ndarray:
    """Read an array of uint8 with `ndim` dimensions, none of which is 0. Raises UserError."""
    content = _read_bytes(path)
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTE, ndim)):
        raise UserError(
            f"{path} is not an idx file of bytes with {ndim} dimensions (it starts with "
            f"{content[:4].hex()}, not 000008{ndim:02x}); check that no two files were swapped"
        )
    header = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:header]) if len(content) >= header else (0,)
    actual, expected = len(content) - header, math.prod(shape)
    if not expected:
        raise UserError(f"{path} has a cut header or no items; download the file again")
    if actual != expected:
        raise UserError(
            f"{path} has {actual} bytes of data, but its header promises {expected}; download the "
            "file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: str) -> bytes:
    """Read a file, and decompress it if it is gzipped, whatever its name is.

    Raises:
      UserError: the file is empty or damaged.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (tf.errors.OpError, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"cannot read {path} ({get_first_line(error)}); download the file again"
        ) from error
    if not content:
        raise UserError(f"{path} is empty; download the file again")
    return content
