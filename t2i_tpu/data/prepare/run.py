"""Runs a preparation from its start, or from where it was interrupted, until it is complete."""

import contextlib
import dataclasses
import json
import os
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import text_tower
from t2i_tpu.data.prepare import assemble, inputs, plan, pool
from t2i_tpu.data.prepare.encode import UnitEncoder
from t2i_tpu.data.prepare.progress import show_progress
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import blame_source, make_source
from t2i_tpu.data.sources.source import Source
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files
from t2i_tpu.storage.lock import Lock

# A function that processes all units that have not been processed. Its arguments are the work folder,
# the settings and the names of the processed units. It returns a context manager whose value is an
# iterator of the names of the other units as they finish, in any order. There are
# `pool.process_units` and `beam.process_units`.
Runner = Callable[[str, Settings, set[str]], contextlib.AbstractContextManager[Iterator[str]]]


def prepare(
    settings: Settings, output: str, process_units: Runner = pool.process_units
) -> manifest_lib.Manifest:
    """Prepare a data set in the folder `output`, local or gs://, and return its manifest.

    If a preparation is killed at any point, the same call resumes it. The same input and settings
    give the same bytes, whichever runner is used and however often the preparation is killed.

    Args:
      settings: settings of the preparation.
      output: a new folder, or the folder of an interrupted preparation.
      process_units: the runner that processes the units.

    Raises:
      UserError: the output holds something else or cannot be written, the source cannot be read, too
        few examples are left, or there is not enough memory. Finished units are kept.
    """
    try:
        return _prepare(settings, output, process_units)
    except tf.errors.OpError as error:
        raise UserError(
            f"--output={output}: {files.explain_error(output, error)}; finished units are kept: "
            "run the same command again to resume"
        ) from error
    except MemoryError as error:
        raise UserError(
            "there is not enough memory; use fewer --workers, or close other programs; finished units are "
            "kept: run the same command again to resume"
        ) from error


def _prepare(settings: Settings, output: str, process_units: Runner) -> manifest_lib.Manifest:
    """Do the work of `prepare`, but raise TensorFlow's own errors if the output cannot be written."""
    work = posixpath.join(output, plan.WORK_NAME)
    if tf.io.gfile.exists(posixpath.join(output, manifest_lib.MANIFEST_NAME)):
        return _read_complete(settings, output, work)

    source, encoder = make_source(settings), UnitEncoder(settings)
    plan.check_output(settings, output, work)
    with _hold(output, work) as lock:
        manifest = _write(settings, source, encoder, output, work, process_units, lock)
    _clean_up(output, work)
    return manifest


@contextlib.contextmanager
def _hold(output: str, work: str) -> Iterator[Lock]:
    """Hold the lock of the work folder, and remove folders on disk that are still empty at the end."""
    is_new = not tf.io.gfile.exists(output)
    try:
        with Lock(work) as lock:
            yield lock
    finally:
        for folder in (work, output) if is_new else (work,):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _write(
    settings: Settings,
    source: Source,
    encoder: UnitEncoder,
    output: str,
    work: str,
    process_units: Runner,
    lock: Lock,
) -> manifest_lib.Manifest:
    """Write the data set, and return its manifest."""
    # Set up.
    units, summary = plan.make_plan(settings, source, work)
    encoder.check_unchanged(work)
    tower = None
    if settings.export_text_tower:
        # Export the text tower first: if that is impossible, the error should not come after days.
        tower = _export_text_tower(encoder, output, work)

    # Process the units and encode their captions.
    processed = plan.list_processed(work)
    old_units = [name for name in units if name in processed]
    with (
        show_progress("processing", "units", len(units), len(old_units)) as progress,
        process_units(work, settings, processed) as new_units,
    ):
        for name in old_units:
            encoder.encode_unit(work, name)
        for name in progress.iterate(new_units):
            encoder.encode_unit(work, name)

    # Write the data set.
    lock.check()
    with blame_source(settings.source):
        label_names = source.read_label_names()
    manifest = assemble.assemble(output, work, units, settings, encoder, label_names)
    preparation = manifest.preparation | {"input": dataclasses.asdict(summary)}
    manifest = dataclasses.replace(manifest, text_tower=tower, preparation=preparation)
    lock.check()
    assemble.write_manifest(output, manifest)
    return manifest


def _read_complete(settings: Settings, output: str, work: str) -> manifest_lib.Manifest:
    """Return the manifest of a complete data set.

    Raises:
      UserError: its settings differ, or its source has changed since.
    """
    manifest = manifest_lib.read_manifest(output)
    preparation = manifest.preparation or {}
    if preparation.get("fingerprint") != settings.compute_fingerprint():
        difference = _find_difference(settings, preparation)
        raise UserError(
            f"--output={output} already holds another data set{difference}; choose another folder"
        )
    _check_source_unchanged(settings, output, preparation.get("input"))
    logging.info("%s is already complete", output)
    _clean_up(output, work)
    return manifest


def _find_difference(settings: Settings, preparation: dict[str, Any]) -> str:
    """Return the first setting with which a data set was prepared differently, in parentheses."""
    for name, value in settings.to_dict().items():
        if name in preparation and preparation[name] != value:
            return f" (its {name} is {preparation[name]!r}, not {value!r})"
    return ""


def _check_source_unchanged(settings: Settings, output: str, old: dict[str, Any] | None) -> None:
    """Compare the source with what a complete data set was made from.

    Only a warning is logged if the source can no longer be read, or if only the times of its files
    differ, because their content may be the same.

    Args:
      settings: settings of the preparation.
      output: folder of the data set.
      old: the manifest's summary of the input, or None if an earlier version wrote the manifest.

    Raises:
      UserError: files were added, removed, or have another size, or a table has other rows.
    """
    if old is None:
        return
    reader = inputs.InputReader(make_source(settings), settings.source)
    try:
        with show_progress("comparing the source", "units") as progress:
            for _ in progress.iterate(reader.list_units()):
                pass
    except (UserError, tf.errors.OpError) as error:
        logging.warning("the source cannot be compared with %s: %s", output, error)
        return
    new = dataclasses.asdict(reader.summary)
    remedy = f"delete {output} or choose another --output"
    if new["content_sha256"] != old["content_sha256"]:
        raise UserError(
            f"--source={settings.source} has changed since {output} was prepared from it "
            f"({_compare_counts(old, new)}); to prepare it again, {remedy}"
        )
    if new["versions_sha256"] != old["versions_sha256"]:
        logging.warning(
            "files of --source=%s have other times than when %s was prepared, but the same sizes; if "
            "their content has changed, %s",
            *(settings.source, output, remedy),
        )


def _compare_counts(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return how the number and the size of the files of a source have changed."""
    for name, unit in (("files", "files"), ("num_bytes", "bytes")):
        if old[name] != new[name]:
            return f"{old[name]:,} {unit} then, {new[name]:,} now"
    return "the same number of files and bytes, but other names, sizes or captions"


def _export_text_tower(
    encoder: UnitEncoder, output: str, work: str
) -> tuple[manifest_lib.StoredFile, ...]:
    """Export the text tower if necessary, and return its files.

    If it cannot be exported, the plan is removed. The preparation can then be started again without
    --export_text_tower.

    Raises:
      UserError: the text tower cannot be exported.
    """
    record = posixpath.join(work, "text_tower.json")
    if not tf.io.gfile.exists(record):
        try:
            stored = text_tower.export(encoder.encoder, output)
        except UserError:
            _remove_folder(work)
            raise
        files.write(record, json.dumps([dataclasses.asdict(file) for file in stored]))
    with tf.io.gfile.GFile(record) as file:
        return tuple(manifest_lib.StoredFile(**fields) for fields in json.load(file))


def _clean_up(output: str, work: str) -> None:
    """Remove the work folder and unfinished files."""
    _remove_folder(work)
    # On gs:// a rename is a copy and a deletion. A kill between the two leaves an unfinished file.
    files.remove_partial(output)


def _remove_folder(folder: str) -> None:
    if tf.io.gfile.exists(folder):
        tf.io.gfile.rmtree(folder)
