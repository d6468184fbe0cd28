"""What every source is: units of work, and the items of a unit.

A unit is a small JSON object that says where a part of the input lies: a tar file, a range of rows,
some hundred paths. The units are listed once, in an order that depends on the input alone; each is
then read from its start to its end by whichever worker is free. Nothing else is remembered: a
preparation that was killed reads a unit again or not at all.
"""

import dataclasses
import glob
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from t2i_tpu.errors import UserError

Unit = dict[str, Any]

UNIT_SIZE = 512  # items of a unit, where the source can choose
IMAGE_ENDINGS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")


@dataclasses.dataclass
class Item:
    """One example as it was found.

    Attributes:
      key: unique within the source.
      image: a file's bytes, or uint8 [H, W] or [H, W, C].
      caption: text, bytes that should be UTF-8, or None.
      columns: what else is known, by column name.
      problem: why this is no example; it is counted under this name.
    """

    key: str
    image: bytes | np.ndarray | None = None
    caption: str | bytes | None = None
    label: int | None = None
    embedding: np.ndarray | None = None
    split: str | None = None  # train | heldout where the source says so
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str | None = None


class Source(Protocol):
    def units(self) -> Iterator[Unit]:
        """Raises UserError where there is nothing to read."""

    def read(self, unit: Unit) -> Iterator[Item]:
        """The items of a unit. What is wrong with one is its `problem`, not an error."""

    def label_names(self) -> tuple[str, ...] | None: ...


def ranges(count: int, size: int = UNIT_SIZE) -> Iterator[Unit]:
    """Units of rows [start, stop)."""
    for start in range(0, count, size):
        yield {"start": start, "stop": min(start + size, count)}


def files_of(pattern: str, kind: str) -> list[str]:
    """The files of a path, a glob or a brace pattern (shard-{0000..0099}.tar), local or gs://.

    Raises:
      UserError: there is none.
    """
    pattern = os.path.expanduser(pattern)
    try:
        from braceexpand import braceexpand

        patterns = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    except ImportError:
        raise UserError("{a..b} in a pattern needs t2i-tpu[prepare]; use * instead") from None
    found = []
    for one in patterns:
        if any(mark in one for mark in "*?["):
            found += sorted(tf.io.gfile.glob(one) if "://" in one else glob.glob(one))
        elif tf.io.gfile.exists(one):
            found.append(one)
        else:
            raise UserError(f"--source={kind}:{pattern}: {one!r} does not exist")
    if not found:
        raise UserError(f"--source={kind}:{pattern}: no file has such a name")
    return found


def stem_of(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]
