"""What is to be done and what is done already, in a folder of the output: DIR/preparing.

settings.json, units.jsonl (one unit a line), and the files of `unit` and `encode`.
"""

import contextlib
import json
import posixpath
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.prepare.settings import OF_SHARDS, Settings
from t2i_tpu.data.prepare.unit import unit_path
from t2i_tpu.data.sources.source import Source, Unit
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

WORK_NAME = "preparing"  # the folder, gone when the data set is whole
_SETTINGS, _UNITS = "settings.json", "units.jsonl"
_PROBLEM = ".problem"  # instead of a unit's files


def make(settings: Settings, source: Source, output: str, work: str) -> int:
    """Lists the units, once, and removes what an earlier run left of others; the number of units.

    Raises:
      UserError: the output holds something else, or a preparation with other settings.
    """
    plan, record = posixpath.join(work, _UNITS), posixpath.join(work, _SETTINGS)
    if not tf.io.gfile.exists(record):
        if tf.io.gfile.isdir(output) and set(tf.io.gfile.listdir(output)) - {
            WORK_NAME,
            WORK_NAME + "/",
        }:
            raise UserError(f"{output!r} is not empty; choose another --output")
        tf.io.gfile.makedirs(work)
        with files.write_atomically(plan) as partial, tf.io.gfile.GFile(partial, "w") as file:
            for one in source.units():
                file.write(json.dumps(one) + "\n")
        files.write(record, settings.to_json())
    _go_on(settings, output, record)
    for name in tf.io.gfile.listdir(work):
        if name.endswith((".tmp", _PROBLEM)):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(posixpath.join(work, name))
    return sum(1 for _ in units(work))


def _go_on(settings: Settings, output: str, record: str) -> None:
    """What the shards alone depend on may change while they are not whole: they are written anew."""
    with tf.io.gfile.GFile(record) as file:
        before = json.load(file)
    now = json.loads(settings.to_json())
    changed = [name for name in now if now[name] != before.get(name)]
    for name in changed:
        if name not in OF_SHARDS:
            raise UserError(
                f"{output!r} holds a preparation under way with another {name} "
                f"({before.get(name)!r}); finish that one, delete it, or choose another --output"
            )
    if changed:
        for shard in tf.io.gfile.glob(posixpath.join(output, "*.tfrecord")):
            tf.io.gfile.remove(shard)
        files.write(record, settings.to_json())


def units(work: str) -> Iterator[tuple[int, Unit]]:
    with tf.io.gfile.GFile(posixpath.join(work, _UNITS)) as file:
        yield from enumerate(map(json.loads, file))


def finished(work: str) -> set[int]:
    """The units that are done."""
    names = [name for name in tf.io.gfile.listdir(work) if name.endswith(".json")]
    numbers = (name[len("unit-") : -len(".json")] for name in names)
    return {int(number) for number in numbers if number.isdecimal()}


def add_problem(work: str, index: int, line: str) -> None:
    """Says why a unit cannot be done, where no exception reaches the process that `prepare`s."""
    files.write(unit_path(work, index) + _PROBLEM, line, shared=True)


def problems(work: str) -> Iterator[str]:
    for path in sorted(tf.io.gfile.glob(posixpath.join(work, "*" + _PROBLEM))):
        with tf.io.gfile.GFile(path) as file:
            yield file.read()
