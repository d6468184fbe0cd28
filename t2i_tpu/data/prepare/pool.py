"""Units done by processes of this machine, the default of --runner."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator

from t2i_tpu.data.prepare import plan, unit
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError


@contextlib.contextmanager
def do_units(
    work: str, settings: Settings, finished: set[int], workers: int = 1
) -> Iterator[Iterator[int]]:
    """As `run.Runner`; one worker is this process."""
    todo = (numbered for numbered in plan.units(work) if numbered[0] not in finished)
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
        except concurrent.futures.BrokenExecutor as error:
            raise UserError(
                "a worker was killed, perhaps for memory (--workers=1 needs least); "
                "the same command goes on where it was"
            ) from error
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
