"""The interface of a source, which lists units of work and reads the items of a unit.

A unit is a small JSON object that identifies a part of the input: a tar file, a range of rows, or a
few hundred paths. The units are listed once, in an order that depends only on the input. Any worker
can read any unit, and always reads all of it, so an interrupted preparation needs to know only which
units are finished.
"""

import dataclasses
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

Unit = dict[str, Any]

UNIT_SIZE = 512  # number of items per unit, if the source can choose it


@dataclasses.dataclass
class Item:
    """One captioned image, as it is in the source.

    Attributes:
      key: a string that is unique within the source.
      image: the bytes of a file, or pixels, uint8 [H, W] or [H, W, C].
      caption: text, bytes in a Unicode encoding, None, or another form that `clean_caption` accepts.
      label: index of the class, or None.
      embedding: the embedding that came with the item, in a form that `clean_embedding` accepts, or
        None.
      split: "train" or "heldout" if the source has splits, otherwise None.
      columns: other values, by column name.
      problem: the cause for which the item must be rejected, in snake_case, or None.
    """

    key: str
    image: bytes | np.ndarray | None = None
    caption: Any = None
    label: int | None = None
    embedding: Any = None
    split: str | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str | None = None


class Source(Protocol):
    """Reads captioned images from one kind of input."""

    def list_units(self) -> Iterator[Unit]:
        """Yield the units. Raises UserError if there is nothing to read."""

    def list_files(self, unit: Unit) -> list[str]:
        """Return the paths of the files from which a unit is read. Some of them may not exist.

        A file may be left out if the unit itself holds everything that is used of the file.
        """

    def read(self, unit: Unit) -> Iterator[Item]:
        """Yield the items of a unit. Faults of an item are stored in its `problem`, not raised."""

    def read_label_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes, or None if the items have no labels."""


def split_rows(count: int) -> Iterator[Unit]:
    """Yield units {"start", "stop"} of at most UNIT_SIZE rows, which together cover `count` rows."""
    for start in range(0, count, UNIT_SIZE):
        yield {"start": start, "stop": min(start + UNIT_SIZE, count)}


def select_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the numbers and strings of a row, which filters can use."""
    return {name: value for name, value in row.items() if isinstance(value, (int, float, str))}


def is_unsafe_name(name: str) -> bool:
    """Return whether a relative path would lead out of its folder."""
    return posixpath.isabs(name) or ".." in name.split("/")
