"""The plan of a preparation and its progress, in a work folder in the output.

The work folder holds settings.json, units.jsonl with the name and content of one unit per line, and the
files that `unit` and `encode` write. The units are listed again whenever the command starts. The results
of units whose input is unchanged are used again.
"""

import contextlib
import itertools
import json
import posixpath
import re
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.prepare.inputs import InputReader, InputSummary
from t2i_tpu.data.prepare.progress import show_progress
from t2i_tpu.data.prepare.settings import SHARD_SETTINGS, Settings
from t2i_tpu.data.prepare.unit import make_unit_path
from t2i_tpu.data.sources.source import Source, Unit
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, outputs, paths

# The work folder, which is removed when the data set is complete.
WORK_NAME = f"preparing{paths.PARTIAL_SUFFIX}"
_SETTINGS_NAME = "settings.json"
_UNITS_NAME = "units.jsonl"
_PROBLEM_EXTENSION = ".problem"  # of the file that a unit has instead of a result if it failed


def make_plan(settings: Settings, source: Source, work: str) -> tuple[list[str], InputSummary]:
    """Write the plan of a preparation, which may have been interrupted.

    Incomplete files and recorded problems of an earlier run are removed.

    Args:
      settings: settings of the preparation.
      source: the source that lists the units.
      work: the work folder.

    Returns:
      The names of the units, and a summary of the input.

    Raises:
      UserError: the source has no units.
    """
    reader = InputReader(source, settings.source)
    with show_progress("reading the source", "units") as progress:
        units = progress.iterate(reader.list_units())
        first = next(units, None)
        if first is None:
            raise UserError(f"--source={settings.source} holds no images; check the path")
        names = _write_units(work, itertools.chain([first], units))
    files.write(posixpath.join(work, _SETTINGS_NAME), settings.to_json())
    for name in files.list_names(work):
        if paths.is_partial(name) or name.endswith(_PROBLEM_EXTENSION):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(posixpath.join(work, name))
    return names, reader.summary


def check_output(settings: Settings, output: str, work: str) -> None:
    """Raise UserError if the output folder holds anything other than this preparation."""
    outputs.check_folder(output, "--output=")
    settings_path = posixpath.join(work, _SETTINGS_NAME)
    if not tf.io.gfile.exists(settings_path):
        if names := outputs.list_visible(output):
            raise UserError(
                f"--output={output} is not empty ({outputs.describe_names(names)}); choose a new folder"
            )
        return
    with tf.io.gfile.GFile(settings_path) as file:
        old = json.load(file)
    new = json.loads(settings.to_json())
    for name in new:
        if name not in SHARD_SETTINGS and new[name] != old.get(name):
            raise UserError(
                f"--output={output} holds an unfinished preparation with a different {name} "
                f"({old.get(name)!r}); finish it, delete {output}, or choose another --output"
            )


def _write_units(work: str, units: Iterator[tuple[str, Unit]]) -> list[str]:
    """Write the list of units, and return their names."""
    tf.io.gfile.makedirs(work)
    names = []
    path = posixpath.join(work, _UNITS_NAME)
    with files.write_atomically(path) as partial, tf.io.gfile.GFile(partial, "w") as file:
        for name, unit in units:
            file.write(json.dumps({"name": name, "unit": unit}) + "\n")
            names.append(name)
    return names


def read_units(work: str) -> Iterator[tuple[str, Unit]]:
    """Yield (name, unit) of each unit."""
    with tf.io.gfile.GFile(posixpath.join(work, _UNITS_NAME)) as file:
        for line in file:
            fields = json.loads(line)
            yield fields["name"], fields["unit"]


def list_processed(work: str) -> set[str]:
    """Return the names of the units that have a result, including those of an earlier input."""
    matches = (re.fullmatch(r"unit-(\w+)\.json", name) for name in files.list_names(work))
    return {match[1] for match in matches if match}


def write_problem(work: str, name: str, message: str) -> None:
    """Record why a unit cannot be processed, for runners that do not pass on exceptions."""
    files.write(make_unit_path(work, name) + _PROBLEM_EXTENSION, message, shared=True)


def read_problems(work: str) -> Iterator[str]:
    """Yield the messages that `write_problem` recorded."""
    for name in files.list_names(work):
        if name.endswith(_PROBLEM_EXTENSION):
            with tf.io.gfile.GFile(posixpath.join(work, name)) as file:
                yield file.read()
