"""Finds the folder of shards that `config.data.source` refers to; prepares it if necessary."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.data.manifest import FORMAT_VERSION, MANIFEST_NAME
from t2i_tpu.data.records import Record
from t2i_tpu.data.sources import idx, tfds
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.options import suggest
from t2i_tpu.storage import folders, paths
from t2i_tpu.storage.cache import get_cache_folder

_EMBEDDED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "embedded")
_SPLITS = ("train", "heldout")


def locate(source: str, prepare: bool = True) -> str | None:
    """Return the folder of shards that a source refers to.

    A source is one of
      embedded:NAME       a data set that ships with the package
      shards:PATH         a folder of shards, local or gs://
      idx:FOLDER          the four idx files of MNIST or a similar data set (see `sources.idx`)
      tfds:NAME[@DIR]     a data set of tensorflow-datasets, which stores its files in DIR

    A data set of the last two kinds is converted to shards once, in a folder of the cache
    ($T2I_TPU_CACHE or ~/.cache/t2i_tpu) whose name depends on the content or version of the data
    set. Several processes may convert the same data set at the same time.

    Args:
      source: one of the above.
      prepare: whether to convert the data set if it is not in the cache.

    Returns:
      A path, local or gs://, or None if `prepare` is false and the data set is not in the cache.

    Raises:
      UserError: the source does not exist or cannot be read, or the cache cannot be written.
    """
    source = paths.parse_source(source, "config.data.source=")
    kind, colon, name = source.partition(":")
    if not colon or kind not in _KINDS:
        near = suggest(kind.lower(), list(_KINDS))
        if not near and "/" in source:
            near = f"; did you mean 'shards:{source}'?"
        raise UserError(f"unknown data source {source!r}; it must be {_USAGE}{near}")
    if not name:
        raise UserError(f"data source {source!r} has nothing after the colon; it must be {_USAGE}")
    return _KINDS[kind](name, prepare)


def _locate_embedded(name: str, prepare: bool) -> str:
    """Return the folder of a data set that ships with the package."""
    folder = os.path.join(_EMBEDDED, name)
    if not _has_manifest(folder):
        names = os.listdir(_EMBEDDED) if os.path.isdir(_EMBEDDED) else []
        known = sorted(name for name in names if _has_manifest(os.path.join(_EMBEDDED, name)))
        raise UserError(f"no embedded data set {name!r}; there is {', '.join(known) or 'none'}")
    return folder


def _locate_shards(path: str, prepare: bool) -> str:
    return path


def _locate_idx(path: str, prepare: bool) -> str | None:
    """Return the folder of shards of four idx files, and write it if necessary."""
    folder = os.path.abspath(path)
    name = os.path.basename(folder)

    def write(output: str) -> None:
        splits = {}
        for split in _SPLITS:
            records = list(idx.read_idx(folder, split))
            splits[split] = _show_progress(records, split, len(records))
        write_dataset(output, splits, name=name, label_names=idx.read_label_names(folder))

    return _prepare_once("idx", name, idx.compute_fingerprint(folder), write, prepare)


def _locate_tfds(spec: str, prepare: bool) -> str | None:
    """Return the folder of shards of a data set of TFDS, and write it if necessary."""
    name, _, data_dir = spec.partition("@")
    data_dir = data_dir or None
    builder = tfds.open_builder(name, data_dir)

    def write(output: str) -> None:
        builder = tfds.prepare_builder(name, data_dir)
        splits = {}
        for split in _SPLITS:
            records = tfds.read_tfds(name, data_dir, split)
            splits[split] = _show_progress(records, split, tfds.count_examples(builder, split))
        write_dataset(output, splits, name=builder.name, label_names=tfds.get_label_names(builder))

    # The full name includes the version, which should determine the content. Copies in different
    # folders may still differ, so the identity includes the path too.
    identity = f"{builder.info.full_name} {builder.data_path}"
    return _prepare_once("tfds", builder.info.full_name, identity, write, prepare)


_KINDS: dict[str, Callable[[str, bool], str | None]] = {
    "embedded": _locate_embedded,
    "shards": _locate_shards,
    "idx": _locate_idx,
    "tfds": _locate_tfds,
}
_USAGE = "embedded:NAME, shards:PATH, idx:FOLDER or tfds:NAME[@DIR]"


def _show_progress(records: Iterable[Record], split: str, total: int) -> Iterable[Record]:
    return tqdm(records, desc=f"preparing {split}", total=total, unit=" images", disable=None)


def _has_manifest(folder: str) -> bool:
    """Return whether a folder holds a complete data set, whose manifest is written last."""
    return os.path.exists(os.path.join(folder, MANIFEST_NAME))


def _prepare_once(
    kind: str, name: str, identity: str, write: Callable[[str], None], prepare: bool
) -> str | None:
    """Return the folder of the cache that holds a data set, and write it there if necessary.

    Args:
      kind: the kind of source, for the name of the folder and for messages.
      name: the name of the data set, likewise.
      identity: a text that changes whenever the content of the data set may have changed.
      write: a function that writes the data set into a given folder.
      prepare: whether to call `write` if the data set is not in the cache.

    Returns:
      The folder, or None if `prepare` is false and the data set is not in the cache.

    Raises:
      UserError: the data set cannot be written.
    """
    root = get_cache_folder()
    digest = hashlib.sha256(f"{FORMAT_VERSION} {identity}".encode()).hexdigest()[:16]
    safe_name = re.sub(r"[^\w.-]+", "-", name)
    folder = os.path.join(root, f"{kind}-{safe_name}-{digest}")
    if _has_manifest(folder):
        return folder
    if not prepare:
        return None
    logging.info("preparing %s:%s in %s; this is done only once", kind, name, folder)
    try:
        with folders.create_atomically(folder, is_complete=_has_manifest) as temporary:
            write(temporary)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot prepare {kind}:{name} in the cache {root!r} ({get_first_line(error)}); "
            "check its free space and permissions, or set T2I_TPU_CACHE to another folder"
        ) from error
    return folder
