"""The plan of a preparation and its progress, in the work folder OUTPUT/preparing.

The work folder holds settings.json, units.jsonl with one unit per line, and the files that `unit`
and `encode` write.
"""

import contextlib
import json
import posixpath
import re
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.prepare.settings import SHARD_SETTINGS, Settings
from t2i_tpu.data.prepare.unit import make_unit_path
from t2i_tpu.data.sources.source import Source, Unit
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

WORK_NAME = "preparing"  # the work folder, which is removed when the data set is complete
_SETTINGS_NAME = "settings.json"
_UNITS_NAME = "units.jsonl"
_PROBLEM_EXTENSION = ".problem"  # of the file that a unit has instead of a result if it failed


def make_plan(settings: Settings, source: Source, output: str, work: str) -> int:
    """Write the plan, or check an existing one against the settings.

    Incomplete files and recorded problems of an earlier run are removed.

    Args:
      settings: settings of the preparation.
      source: the source that lists the units.
      output: folder of the data set, local or gs://.
      work: the work folder inside `output`.

    Returns:
      The number of units.

    Raises:
      UserError: the output folder holds something else, or a preparation with different settings.
    """
    settings_path = posixpath.join(work, _SETTINGS_NAME)
    if tf.io.gfile.exists(settings_path):
        _update_settings(settings, output, settings_path)
    else:
        _write_plan(settings, source, output, work)
    for name in tf.io.gfile.listdir(work):
        if name.endswith((".tmp", _PROBLEM_EXTENSION)):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(posixpath.join(work, name))
    return sum(1 for _ in read_units(work))


def _write_plan(settings: Settings, source: Source, output: str, work: str) -> None:
    """Write the units and then the settings. Raises UserError if `output` is not empty."""
    if tf.io.gfile.isdir(output):
        names = {name.rstrip("/") for name in tf.io.gfile.listdir(output)}
        if names - {WORK_NAME}:
            raise UserError(f"--output={output} is not empty; choose another folder")
    tf.io.gfile.makedirs(work)
    units_path = posixpath.join(work, _UNITS_NAME)
    with files.write_atomically(units_path) as partial, tf.io.gfile.GFile(partial, "w") as file:
        for unit in source.list_units():
            file.write(json.dumps(unit) + "\n")
    # The settings are written last, so the plan is complete if their file exists.
    files.write(posixpath.join(work, _SETTINGS_NAME), settings.to_json())


def _update_settings(settings: Settings, output: str, settings_path: str) -> None:
    """Store the new settings and remove the shards if only SHARD_SETTINGS have changed.

    Raises:
      UserError: another setting has changed.
    """
    with tf.io.gfile.GFile(settings_path) as file:
        old = json.load(file)
    new = json.loads(settings.to_json())
    changed = [name for name in new if new[name] != old.get(name)]
    for name in changed:
        if name not in SHARD_SETTINGS:
            raise UserError(
                f"--output={output} holds an unfinished preparation with a different {name} "
                f"({old.get(name)!r}); finish it, delete it, or choose another --output"
            )
    if changed:
        for shard in tf.io.gfile.glob(posixpath.join(output, "*.tfrecord")):
            tf.io.gfile.remove(shard)
        files.write(settings_path, settings.to_json())


def read_units(work: str) -> Iterator[tuple[int, Unit]]:
    """Yield each unit with its index, as (index, unit)."""
    with tf.io.gfile.GFile(posixpath.join(work, _UNITS_NAME)) as file:
        yield from enumerate(map(json.loads, file))


def list_processed(work: str) -> set[int]:
    """Return the indices of the units that have a result."""
    matches = (re.fullmatch(r"unit-(\d+)\.json", name) for name in tf.io.gfile.listdir(work))
    return {int(match[1]) for match in matches if match}


def write_problem(work: str, index: int, message: str) -> None:
    """Record why a unit cannot be processed, for runners that do not pass on exceptions."""
    files.write(make_unit_path(work, index) + _PROBLEM_EXTENSION, message, shared=True)


def read_problems(work: str) -> Iterator[str]:
    """Yield the messages that `write_problem` recorded."""
    for path in sorted(tf.io.gfile.glob(posixpath.join(work, "*" + _PROBLEM_EXTENSION))):
        with tf.io.gfile.GFile(path) as file:
            yield file.read()
