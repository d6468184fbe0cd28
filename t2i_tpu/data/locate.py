"""`config.data.source` -> the folder of shards that training reads."""

import difflib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.cache import cache_folder
from t2i_tpu.data.manifest import FORMAT_VERSION, MANIFEST_NAME
from t2i_tpu.data.records import Record
from t2i_tpu.data.sources import idx, tfds
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError

_EMBEDDED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "embedded")
_SPLITS = ("train", "heldout")


def locate(source: str, prepare: bool = True) -> str | None:
    """Returns the folder of shards of a source, preparing it first where that is needed, or None
    where `prepare` is off and it would be.

    A source is one of
      embedded:NAME       a data set that ships with the package
      shards:PATH         a folder of shards, local or gs://
      idx:FOLDER          the four idx files of MNIST or its like (see `sources.idx`)
      tfds:NAME[@DIR]     a data set of tensorflow-datasets, prepared in DIR

    The last two are prepared once, into a folder of the cache ($T2I_TPU_CACHE, else
    ~/.cache/t2i_tpu) that is named after content or version. Processes may do so side by side.

    Raises:
      UserError: no such source, or it cannot be read, or the cache cannot be written.
    """
    kind, colon, name = source.partition(":")
    if not colon or kind not in _KINDS:
        raise UserError(f"no data source {source!r}; {_hint(source, kind)}")
    if not name:
        raise UserError(f"data source {source!r} lacks what follows the colon; want {_USAGE}")
    return _KINDS[kind](name, prepare)


def _hint(source: str, kind: str) -> str:
    near = difflib.get_close_matches(kind.lower(), _KINDS, n=1)
    if near:
        return f"did you mean {near[0]!r}? Want {_USAGE}"
    if "/" in source:
        return f"did you mean 'shards:{source}'? Want {_USAGE}"
    return f"want {_USAGE}"


def _locate_embedded(name: str, prepare: bool) -> str:
    folder = os.path.join(_EMBEDDED, name)
    if not _is_whole(folder):
        names = os.listdir(_EMBEDDED) if os.path.isdir(_EMBEDDED) else []
        known = sorted(name for name in names if _is_whole(os.path.join(_EMBEDDED, name)))
        raise UserError(f"no embedded data set {name!r}, only: {', '.join(known) or 'none'}")
    return folder


def _locate_shards(path: str, prepare: bool) -> str:
    return os.path.expanduser(path)


def _locate_idx(path: str, prepare: bool) -> str | None:
    folder = os.path.abspath(os.path.expanduser(path))
    name = os.path.basename(folder)

    def write(output: str) -> None:
        records = {split: list(idx.read_idx(folder, split)) for split in _SPLITS}
        splits = {split: _watched(records[split], split, len(records[split])) for split in _SPLITS}
        write_dataset(output, splits, name=name, label_names=idx.label_names(folder))

    return _prepared_once("idx", name, idx.fingerprint(folder), write, prepare)


def _locate_tfds(spec: str, prepare: bool) -> str | None:
    name, _, data_dir = spec.partition("@")
    data_dir = os.path.expanduser(data_dir) or None
    builder = tfds.open_builder(name, data_dir)

    def write(output: str) -> None:
        builder = tfds.prepared_builder(name, data_dir)
        splits = {
            split: _watched(
                tfds.read_tfds(name, data_dir, split), split, tfds.num_examples(builder, split)
            )
            for split in _SPLITS
        }
        write_dataset(output, splits, name=builder.name, label_names=tfds.label_names(builder))

    # TFDS's version stands for the content; its folder tells apart copies of different makers.
    identity = f"{builder.info.full_name} {builder.data_path}"
    return _prepared_once("tfds", builder.info.full_name, identity, write, prepare)


_KINDS: dict[str, Callable[[str, bool], str | None]] = {
    "embedded": _locate_embedded,
    "shards": _locate_shards,
    "idx": _locate_idx,
    "tfds": _locate_tfds,
}
_USAGE = "embedded:NAME, shards:PATH, idx:FOLDER or tfds:NAME[@DIR]"


def _watched(records: Iterable[Record], split: str, total: int) -> Iterable[Record]:
    return tqdm(records, desc=f"preparing {split}", total=total, unit=" images", disable=None)


def _is_whole(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, MANIFEST_NAME))


def _prepared_once(
    kind: str, name: str, identity: str, write: Callable[[str], None], prepare: bool
) -> str | None:
    """The cache's folder for this data; `write` fills it where it is not there yet and `prepare`."""
    root = cache_folder()
    digest = hashlib.sha256(f"{FORMAT_VERSION} {identity}".encode()).hexdigest()[:16]
    safe_name = re.sub(r"[^\w.-]+", "-", name)
    final = os.path.join(root, f"{kind}-{safe_name}-{digest}")
    if _is_whole(final):
        return final
    if not prepare:
        return None
    logging.info("preparing %s:%s in %s, once", kind, name, final)
    try:
        os.makedirs(root, exist_ok=True)
        # Work happens in a folder of our own: what is half-written never has the final name, and
        # of two processes the first to rename wins.
        temporary = tempfile.mkdtemp(prefix=".preparing-", dir=root)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {root!r} ({error.strerror}); "
            "set T2I_TPU_CACHE to a folder that can be written"
        ) from error
    try:
        write(temporary)
        _rename_unless_whole(temporary, final)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"could not prepare {kind}:{name} in {root!r} ({str(error).splitlines()[0]}); "
            "check its space, or set T2I_TPU_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _rename_unless_whole(temporary: str, final: str) -> None:
    try:
        os.rename(temporary, final)
    except OSError:
        if not _is_whole(final):
            raise
