"""A preparation from the start, or from where it was killed, to a whole data set."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import posixpath
import threading
from collections.abc import Iterator

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.data import files, schema, text_tower
from t2i_tpu.data.prepare import assemble, unit
from t2i_tpu.data.prepare.encode import UnitEncoder
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.source import Unit
from t2i_tpu.errors import UserError

WORK_NAME = "preparing"  # folder of the output, gone when it is whole
_SETTINGS, _UNITS, _TEXT_TOWER = "settings.json", "units.jsonl", "text_tower.json"


def prepare(settings: Settings, output: str, workers: int) -> schema.Manifest:
    """Prepares a data set into the folder `output`, local or gs://.

    Killed at any point, the same call goes on; the result is the same bytes for the same input and
    settings, whatever the number of workers and however often it was killed.

    Raises:
      UserError: the output holds something else, or cannot be written; the source cannot be read;
        too few examples are left. What is finished stays.
    """
    try:
        return _prepare(settings, output.rstrip("/"), workers)
    except concurrent.futures.BrokenExecutor as error:
        raise UserError(
            "a worker was killed, perhaps for memory (--workers=1 needs least); "
            "the same command goes on where it was"
        ) from error
    except tf.errors.OpError as error:
        raise UserError(
            f"--output={output}: {files.refusal(output, error)}; what is finished stays, and the "
            "same command goes on"
        ) from error


def _prepare(settings, output, workers):
    work = posixpath.join(output, WORK_NAME)
    if tf.io.gfile.exists(posixpath.join(output, schema.MANIFEST_NAME)):
        manifest = schema.read_manifest(output)
        if (manifest.preparation or {}).get("fingerprint") != settings.fingerprint():
            raise UserError(f"{output!r} already holds another data set; choose another --output")
        logging.info("%s is whole already", output)
        _remove(work)
        return manifest
    encoder, source = UnitEncoder(settings), settings.make_source()
    num_units = _plan(settings, source, output, work)
    # First of all: an encoder that has none should not be found out after days.
    tower = _text_tower(encoder, output, work) if settings.export_text_tower else None
    finished = _finished(work)
    todo = ((index, one) for index, one in _units(work) if index not in finished)
    progress = tqdm(total=num_units, initial=len(finished), unit=" units", disable=None)
    with progress, _results(todo, work, settings, workers) as results:
        for index in itertools.chain(sorted(finished), results):
            encoder.encode(work, index)
            progress.update(index not in finished)
    logging.info("%d units are done; writing the shards", num_units)
    manifest = assemble.assemble(output, work, num_units, settings, encoder, source.label_names())
    assemble.finish(output, dataclasses.replace(manifest, text_tower=tower))
    _remove(work)
    return manifest


def _plan(settings, source, output, work) -> int:
    """Lists the units, once; the number of them."""
    plan, record = posixpath.join(work, _UNITS), posixpath.join(work, _SETTINGS)
    if not tf.io.gfile.exists(record):
        if tf.io.gfile.isdir(output) and set(tf.io.gfile.listdir(output)) - {
            WORK_NAME,
            WORK_NAME + "/",
        }:
            raise UserError(f"{output!r} is not empty; choose another --output")
        tf.io.gfile.makedirs(work)
        with files.whole(plan) as partial, tf.io.gfile.GFile(partial, "w") as file:
            for one in source.units():
                file.write(json.dumps(one) + "\n")
        files.write(record, json.dumps(settings.as_dict() | {"_": settings.fingerprint()}))
    with tf.io.gfile.GFile(record) as file:
        before = json.load(file)
    if before.pop("_") != settings.fingerprint():
        now = json.loads(json.dumps(settings.as_dict()))
        changed = [name for name in now if now[name] != before.get(name)] or ["version"]
        raise UserError(
            f"{output!r} holds a preparation under way with another {changed[0]} "
            f"({before.get(changed[0])!r}); finish that one, or choose another --output"
        )
    return sum(1 for _ in _units(work))


def _text_tower(encoder, output, work) -> tuple[schema.StoredFile, ...]:
    """Exports it, once."""
    record = posixpath.join(work, _TEXT_TOWER)
    if not tf.io.gfile.exists(record):
        stored = text_tower.export(encoder.encoder, output)
        files.write(record, json.dumps([dataclasses.asdict(one) for one in stored]))
    with tf.io.gfile.GFile(record) as file:
        return tuple(schema.StoredFile(**one) for one in json.load(file))


def _units(work: str) -> Iterator[tuple[int, Unit]]:
    with tf.io.gfile.GFile(posixpath.join(work, _UNITS)) as file:
        yield from enumerate(map(json.loads, file))


def _finished(work: str) -> set[int]:
    """Units that are done; what a killed worker was writing is removed."""
    names = tf.io.gfile.listdir(work)
    for name in names:
        if name.endswith(".tmp"):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(posixpath.join(work, name))
    numbers = (name[len("unit-") : -len(".json")] for name in names if name.endswith(".json"))
    return {int(number) for number in numbers if number.isdecimal()}


def _remove(work: str) -> None:
    if tf.io.gfile.exists(work):
        tf.io.gfile.rmtree(work)


@contextlib.contextmanager
def _results(todo, work, settings, workers):
    """Iterates over the indices of units as they are done, in any order."""
    if workers == 1:
        source = settings.make_source()
        yield (_do(work, source, settings, one) for one in todo)
        return
    context = multiprocessing.get_context("forkserver")  # TensorFlow does not survive a fork
    context.set_forkserver_preload(["t2i_tpu.tensorflow_quietly", __name__])
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(work, settings)
    ) as pool:
        try:
            yield _bounded(pool, todo, 2 * workers)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bounded(pool, todo, limit):
    waiting = {pool.submit(_work, one) for one in itertools.islice(todo, limit)}
    while waiting:
        done, waiting = concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED")
        waiting |= {pool.submit(_work, one) for one in itertools.islice(todo, len(done))}
        yield from (one.result() for one in done)


def _do(work, source, settings, numbered):
    index, one = numbered
    unit.do_unit(work, index, one, source, settings)
    return index


_worker = {}  # of this process


def _start_worker(work, settings):
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker.update(work=work, source=settings.make_source(), settings=settings)


def _die_with_parent():
    """A worker whose parent was killed with -9 would wait for it forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(numbered):
    return _do(_worker["work"], _worker["source"], _worker["settings"], numbered)
