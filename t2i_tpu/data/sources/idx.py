"""Folders of four idx files, the format of MNIST and of the data sets made in its image."""

import functools
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.records import Record
from t2i_tpu.data.sources.source import Item, Unit, ranges
from t2i_tpu.errors import UserError

_PREFIXES = {"train": "train", "heldout": "t10k"}
_LABELS_FILE = "labels.txt"
_UNSIGNED_BYTE = 0x08  # the idx format's code of the only element type that we read

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
    """Both splits, in units of rows."""

    def __init__(self, folder: str):
        self.folder = os.path.expanduser(folder)

    def units(self) -> Iterator[Unit]:
        for split in _PREFIXES:
            for rows in ranges(len(_records(self.folder, split))):
                yield rows | {"split": split}

    def read(self, unit: Unit) -> Iterator[Item]:
        for record in _records(self.folder, unit["split"])[unit["start"] : unit["stop"]]:
            image = record.image[:, :, 0]
            yield Item(record.key, image, record.caption, record.label, split=unit["split"])

    def label_names(self) -> tuple[str, ...]:
        return label_names(self.folder)


@functools.lru_cache(maxsize=2)
def _records(folder: str, split: str) -> list[Record]:
    return list(read_idx(folder, split))


def read_idx(folder: str, split: str) -> Iterator[Record]:
    """The records of one split, in the files' order.

    Args:
      folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and their `t10k-` pair,
        each gzipped (.gz) or plain.
      split: "train", or "heldout" for the `t10k-` files.

    Returns:
      Records with image uint8 [rows, columns, 1], label, and the label's name as caption.

    Raises:
      UserError: at the call, not while iterating, where a file is missing, empty, truncated or not
        idx, where images and labels differ in number, or where a label has no name.
    """
    prefix = _PREFIXES[split]
    images = _read_array(_find(folder, f"{prefix}-images-idx3-ubyte"), ndim=3)
    labels = _read_array(_find(folder, f"{prefix}-labels-idx1-ubyte"), ndim=1)
    names = label_names(folder)
    if len(images) != len(labels):
        raise UserError(
            f"{folder!r} has {len(images)} images and {len(labels)} labels in its {prefix}- files; "
            "take both from the same data set"
        )
    if labels.max() >= len(names):
        raise UserError(
            f"{folder!r} has label {labels.max()} in its {prefix}- files and only {len(names)} "
            f"label names; list a name for each in {_LABELS_FILE}, one a line"
        )
    return (
        Record(f"{split}-{index:06d}", image[:, :, None], caption=names[label], label=int(label))
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    )


def label_names(folder: str) -> tuple[str, ...]:
    """The names of the labels, since idx files carry none.

    The lines of `labels.txt` where the folder has one; otherwise Fashion MNIST's names where the
    training labels are Fashion MNIST's (told by their content); otherwise "0", "1", ...
    """
    path = os.path.join(folder, _LABELS_FILE)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            return tuple(line.strip() for line in file if line.strip())
    path = _find(folder, "train-labels-idx1-ubyte")
    if hashlib.sha256(_read_bytes(path)).hexdigest() == _FASHION_MNIST_TRAIN_LABELS_SHA256:
        return _FASHION_MNIST_NAMES
    return tuple(str(label) for label in range(_read_array(path, ndim=1).max() + 1))


def fingerprint(folder: str) -> str:
    """SHA-256 (hex) of all that the records come from."""
    digest = hashlib.sha256("\n".join(label_names(folder)).encode())
    for prefix in _PREFIXES.values():
        for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
            digest.update(hashlib.sha256(_read_bytes(_find(folder, stem))).digest())
    return digest.hexdigest()


def _find(folder: str, stem: str) -> str:
    for path in (os.path.join(folder, stem), os.path.join(folder, f"{stem}.gz")):
        if tf.io.gfile.exists(path):
            return path
    raise UserError(
        f"idx folder {folder!r} has no {stem}.gz (nor {stem}); it must hold images and labels "
        "of train- and t10k-"
    )


def _read_array(path: str, ndim: int) -> np.ndarray:
    """uint8 of `ndim` dimensions, at least one long in each."""
    content = _read_bytes(path)
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTE, ndim)):
        raise UserError(
            f"{path} is not an idx file of bytes in {ndim} dimensions (it starts with "
            f"{content[:4].hex()}, not 000008{ndim:02x}); check that no two files were swapped"
        )
    header = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:header]) if len(content) >= header else (0,)
    found, promised = len(content) - header, int(np.prod(shape, dtype=np.uint64))
    if not promised or found != promised:
        raise UserError(
            f"{path} has {max(found, 0)} bytes of data where its header asks for "
            f"{promised or 'at least one'}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
        if path.endswith(".gz") and content:
            content = gzip.decompress(content)
    except (tf.errors.OpError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path} ({error}); fetch the file again") from error
    if not content:
        raise UserError(f"{path} is empty; fetch the file again")
    return content
