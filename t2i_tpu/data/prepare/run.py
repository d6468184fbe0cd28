"""A preparation from the start, or from where it was killed, to a whole data set."""

import contextlib
import dataclasses
import itertools
import json
import posixpath
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import text_tower
from t2i_tpu.data.prepare import assemble, plan, pool
from t2i_tpu.data.prepare.encode import UnitEncoder
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

# (work folder, settings, units that are done) -> the indices of the others as they are done, in
# any order. `pool.do_units` is one, `beam.do_units` another.
Runner = Callable[[str, Settings, set[int]], contextlib.AbstractContextManager[Iterator[int]]]


def prepare(
    settings: Settings, output: str, do_units: Runner = pool.do_units
) -> manifest_lib.Manifest:
    """Prepares a data set into the folder `output`, local or gs://.

    Killed at any point, the same call goes on; the result is the same bytes for the same input and
    settings, whoever does the units and however often it was killed.

    Raises:
      UserError: the output holds something else, or cannot be written; the source cannot be read;
        too few examples are left. What is finished stays.
    """
    try:
        return _prepare(settings, output.rstrip("/"), do_units)
    except tf.errors.OpError as error:
        raise UserError(
            f"--output={output}: {files.explain_error(output, error)}; what is finished stays, and the "
            "same command goes on"
        ) from error


def _prepare(settings, output, do_units):
    work = posixpath.join(output, plan.WORK_NAME)
    if tf.io.gfile.exists(posixpath.join(output, manifest_lib.MANIFEST_NAME)):
        manifest = manifest_lib.read_manifest(output)
        if (manifest.preparation or {}).get("fingerprint") != settings.fingerprint():
            raise UserError(f"{output!r} already holds another data set; choose another --output")
        logging.info("%s is whole already", output)
        _tidy(output, work)
        return manifest
    encoder, source = UnitEncoder(settings), settings.make_source()
    num_units = plan.make(settings, source, output, work)
    encoder.check(work)
    # First of all: an encoder that has none should not be found out after days.
    tower = _text_tower(encoder, output, work) if settings.export_text_tower else None
    finished = plan.finished(work)
    progress = tqdm(total=num_units, initial=len(finished), unit=" units", disable=None)
    with progress, do_units(work, settings, finished) as done:
        for index in itertools.chain(sorted(finished), done):
            encoder.encode(work, index)
            progress.update(index not in finished)
    logging.info("%d units are done; writing the shards", num_units)
    manifest = assemble.assemble(output, work, num_units, settings, encoder, source.label_names())
    assemble.finish(output, dataclasses.replace(manifest, text_tower=tower))
    _tidy(output, work)
    return manifest


def _text_tower(encoder, output, work) -> tuple[manifest_lib.StoredFile, ...]:
    """Exports it, once. Where it cannot be, no plan is left that would insist on it."""
    record = posixpath.join(work, "text_tower.json")
    if not tf.io.gfile.exists(record):
        try:
            stored = text_tower.export(encoder.encoder, output)
        except UserError:
            _remove(work)
            raise
        files.write(record, json.dumps([dataclasses.asdict(one) for one in stored]))
    with tf.io.gfile.GFile(record) as file:
        return tuple(manifest_lib.StoredFile(**one) for one in json.load(file))


def _tidy(output: str, work: str) -> None:
    # A rename on gs:// is a copy and a removal; a kill between the two leaves both names.
    for partial in tf.io.gfile.glob(posixpath.join(output, "*.tmp")):
        tf.io.gfile.remove(partial)
    _remove(work)


def _remove(work: str) -> None:
    if tf.io.gfile.exists(work):
        tf.io.gfile.rmtree(work)
