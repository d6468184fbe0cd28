"""Processes units on this machine, in one or several processes (--runner=local, the default)."""

import concurrent.futures
import contextlib
import itertools
from collections.abc import Iterator

from t2i_tpu.data.prepare import plan
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import make_source
from t2i_tpu.data.prepare.unit import process_unit
from t2i_tpu.data.sources.source import Unit
from t2i_tpu.errors import UserError
from t2i_tpu.process.workers import exit_with_parent, start_fork_server


@contextlib.contextmanager
def process_units(
    work: str, settings: Settings, processed: set[str], workers: int = 1
) -> Iterator[Iterator[str]]:
    """Process units in `workers` processes; see `run.Runner` for the interface.

    Args:
      work: the work folder.
      settings: settings of the preparation.
      processed: names of the units that have been processed.
      workers: number of processes. A single worker runs in this process.

    Raises:
      UserError: a worker process was killed.
    """
    remaining = ((name, unit) for name, unit in plan.read_units(work) if name not in processed)
    if workers == 1:
        yield _process_here(work, settings, remaining)
        return
    context = start_fork_server(["t2i_tpu.process.tensorflow_alone", __name__])
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(work, settings)
    ) as pool:
        try:
            yield _process_in_pool(pool, remaining, max_waiting=2 * workers)
        except concurrent.futures.BrokenExecutor as error:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out; run the same command "
                "again to resume (--workers=1 needs the least memory)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _process_here(
    work: str, settings: Settings, units: Iterator[tuple[str, Unit]]
) -> Iterator[str]:
    """Process units in this process, and yield their names."""
    source = make_source(settings)
    for name, unit in units:
        process_unit(work, name, unit, source, settings)
        yield name


def _process_in_pool(
    pool: concurrent.futures.Executor, units: Iterator[tuple[str, Unit]], max_waiting: int
) -> Iterator[str]:
    """Yield the names of units as they finish; at most `max_waiting` units are queued."""

    def submit(count):
        return {pool.submit(_process_in_worker, *unit) for unit in itertools.islice(units, count)}

    waiting = submit(max_waiting)
    while waiting:
        done, waiting = concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED")
        waiting |= submit(len(done))
        yield from (future.result() for future in done)


# The functions below run in the worker processes.
_worker_state = {}


def _start_worker(work: str, settings: Settings) -> None:
    """Set up the state of a worker process."""
    exit_with_parent()
    _worker_state.update(work=work, source=make_source(settings), settings=settings)


def _process_in_worker(name: str, unit: Unit) -> str:
    state = _worker_state
    process_unit(state["work"], name, unit, state["source"], state["settings"])
    return name
