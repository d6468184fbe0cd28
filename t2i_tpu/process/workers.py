"""Starts worker processes that leave Ctrl-C to their parent, and that end when it does."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext

from t2i_tpu.process import interrupts


def start_fork_server(modules: Sequence[str]) -> ForkServerContext:
    """Return a context whose processes are forked from one that has imported some modules.

    TensorFlow does not survive a fork of this process. A worker should call `exit_with_parent`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    _start_blocked(multiprocessing.forkserver.ensure_running)
    # Otherwise the server may still fork workers while this process removes what they need.
    interrupts.kill_after_signal(multiprocessing.forkserver._forkserver._forkserver_pid)
    return context


def start_spawned(process: multiprocessing.Process) -> None:
    """Start a process that was made with the context "spawn". It should call `exit_with_parent`."""
    _start_blocked(process.start)


def exit_with_parent() -> None:
    """Start a thread that ends this process when its parent ends, even if the parent is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _start_blocked(start: Callable[[], None]) -> None:
    # Otherwise `start` starts the tracker, which ends the block.
    multiprocessing.resource_tracker.ensure_running()
    with interrupts.block():
        start()


def _wait_for_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
