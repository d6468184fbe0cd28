"""The connection between the processes of a run: its start, its supervision and its end."""

import atexit
import contextlib
import os
import sys
import threading
import time

import jax
from jax._src import distributed  # the key-value store has no public interface

from t2i_tpu.engines.engine import describe_lost_process
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.process import fast_exit, interrupts

_START_SECONDS = 300  # for all processes to start
_BEAT_SECONDS, _SILENT_SECONDS = 3, 60
_FOLDER = "t2i_tpu/beats/"


def connect(*arguments) -> None:
    """Connect to the other processes of a run, and watch them from then on.

    Args:
      *arguments: the address of the first process, the number of processes and the index of this one.
        JAX finds them itself on a TPU pod.

    Raises:
      UserError: not all processes have started in time.
    """
    if distributed.global_state.client:  # this process has made an engine before
        return
    # JAX would otherwise handle SIGTERM itself, instead of run/stop.py. Versions without this setting, such as
    # 0.7.2, do so too, until run/stop.py replaces their handler.
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)
    # After its own limit, JAX ends the process with a stack trace.
    late = _describe_failure(f"they have not all started in {_START_SECONDS} seconds")
    limit = threading.Timer(_START_SECONDS, _end, [late])
    limit.start()
    try:
        with interrupts.end_at_once():
            jax.distributed.initialize(*arguments, initialization_timeout=2 * _START_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise _describe_failure(get_first_line(error)) from error
    finally:
        limit.cancel()
    atexit.register(_skip_disconnecting)
    threading.Thread(target=_watch, args=(distributed.global_state.client,), daemon=True).start()


def _watch(client) -> None:
    """End this process with one line if another one shows no sign of life.

    On GPUs and TPUs, the main thread would wait forever for the results of the other process. JAX
    notices the end of the first process itself, and ends the others with messages of its own.
    """
    process, seen = distributed.global_state.process_id, {}
    while True:
        try:
            client.key_value_set(f"{_FOLDER}{process}", str(time.monotonic()), allow_overwrite=True)
            beats = client.key_value_dir_get(_FOLDER)
        except jax.errors.JaxRuntimeError:  # this process is disconnected
            return
        now = time.monotonic()
        for name, beat in beats:
            if seen.setdefault(name, (beat, now))[0] != beat:
                seen[name] = beat, now
            elif now - seen[name][1] > _SILENT_SECONDS:
                _end(describe_lost_process(process, f"worker {name.rpartition('/')[2]}"))
        time.sleep(_BEAT_SECONDS)


def _describe_failure(reason: str) -> UserError:
    return UserError(
        f"the other processes of this run cannot be reached ({reason:.160}); check their addresses, "
        "that the first one's port is free, and that every one of them was started"
    )


def _end(error: UserError) -> None:
    """End this process from a thread, as cli.py does."""
    os.write(2, f"{os.path.basename(sys.argv[0])}: error: {error}\n".encode())
    os._exit(1)


def _skip_disconnecting() -> None:
    """Let this process end at once if it has failed. JAX would wait for the others to end, too."""
    if fast_exit.has_failed():
        state = distributed.global_state
        _connections.append((state.client, state.service))
        state.client = state.service = None


_connections: list = []  # keeps them from being destroyed, which disconnects
