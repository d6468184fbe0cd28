"""The interface of a source, which lists units of work and reads the items of a unit.

A unit is a small JSON object that identifies a part of the input: a tar file, a range of rows, or a
few hundred paths. The units are listed once, in an order that depends only on the input. Any worker
can read any unit, and always reads all of it, so an interrupted preparation needs to know only which
units are finished.
"""

import dataclasses
import glob
import itertools
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

Unit = dict[str, Any]

UNIT_SIZE = 512  # number of items per unit, if the source can choose it
_FILES_OF_KINDS = {"webdataset": "*.tar", "parquet": "*.parquet", "urls": "*.parquet"}


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


def expand_pattern(pattern: str, kind: str) -> list[str]:
    """Return the files of a path, a glob or a brace pattern (shard-{0000..0099}.tar).

    Args:
      pattern: the pattern, local or gs://.
      kind: the kind of source, for error messages.

    Raises:
      UserError: a file does not exist, or no file matches.
    """
    files = []
    for path in _expand_braces(pattern, kind):
        if _is_folder(path):
            raise UserError(
                f"--source={kind}:{path} is a folder; name its files, for example with "
                f"--source={kind}:{path}/{_FILES_OF_KINDS[kind]}"
            )
        if tf.io.gfile.exists(path):  # even if its name contains *, ? or [
            files.append(path)
        elif any(character in path for character in "*?["):
            files += sorted(match for match in _glob(path) if not os.path.isdir(match))
        else:
            raise UserError(f"--source={kind}:{pattern}: {path!r} does not exist; check the path")
    if not files:
        raise UserError(f"--source={kind}:{pattern}: no file matches; check the pattern")
    return files


def _glob(pattern: str) -> list[str]:
    """Return the paths that fit a pattern. Local folders that exist are taken literally."""
    if paths.is_remote(pattern):
        return tf.io.gfile.glob(pattern)
    folder, rest = _split_existing(pattern)
    return glob.glob(os.path.join(glob.escape(folder), rest), recursive=True)


def _split_existing(pattern: str) -> tuple[str, str]:
    """Split a local pattern into the longest folder that exists and the rest."""
    folder, rest = os.path.split(pattern)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
        rest = os.path.join(name, rest)
    return folder, rest


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder. On gs://, a name with an ending is assumed to be a file."""
    if paths.is_remote(path):
        return "." not in posixpath.basename(path) and tf.io.gfile.isdir(path)
    return os.path.isdir(path)


def _expand_braces(pattern: str, kind: str) -> list[str]:
    """Return the patterns without braces that a pattern stands for."""
    if "{" not in pattern or tf.io.gfile.exists(pattern):
        return [pattern]
    try:
        import braceexpand
    except ImportError:
        raise UserError(
            f"--source={kind}:{pattern}: {{a..b}} needs braceexpand; pip install -e '.[prepare]', "
            "or use * instead"
        ) from None
    try:
        folder, rest = ("", pattern) if paths.is_remote(pattern) else _split_existing(pattern)
        return [os.path.join(folder, path) for path in braceexpand.braceexpand(rest)]
    except braceexpand.UnbalancedBracesError:
        raise UserError(
            f"--source={kind}:{pattern}: a brace is not closed; write {{0000..0099}}, or use * instead"
        ) from None


def get_stem(path: str) -> str:
    """Return the name of a file without its folder and its last extension."""
    return posixpath.splitext(posixpath.basename(path))[0]


def name_files(paths: Iterable[str]) -> dict[str, str]:
    """Return {path: the beginning of the keys of its items}, without repeated paths.

    The names are those of the files without folder and extension if these differ. Otherwise they are
    the paths relative to the folder that all files have in common.
    """
    paths = list(dict.fromkeys(paths))
    parents = zip(*(posixpath.dirname(path).split("/") for path in paths), strict=False)
    depth = sum(1 for _ in itertools.takewhile(lambda parent: len(set(parent)) == 1, parents))
    relative = ["/".join(path.split("/")[depth:]) for path in paths]
    stems = [posixpath.splitext(path)[0] for path in relative]
    for names in ([get_stem(path) for path in paths], stems, relative):
        if len(set(names)) == len(names):
            break
    return dict(zip(paths, names, strict=True))
