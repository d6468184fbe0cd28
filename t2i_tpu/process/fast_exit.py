"""Ends a process without destroying the framework's objects, which takes seconds and may hang.

Python calls exit handlers in the reverse order of their registration, and this module's handler must run
last. Therefore, interruptible.py imports it before the modules that register others.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from t2i_tpu.process.output import EXIT_UNREAD

# Exit code of a run that was stopped from outside and can be resumed with the same command.
EXIT_STOPPED = 75  # EX_TEMPFAIL

_exit_code: object = None


@contextlib.contextmanager
def skip_destruction() -> Iterator[None]:
    """End the process after Python's exit handlers if the block ends with sys.exit or an error.

    If TensorFlow computes on a TPU or on several hosts, Python ends as usual, because TensorFlow
    disconnects only when its objects are destroyed.
    """
    global _exit_code
    try:
        yield
    except SystemExit as error:
        _exit_code = 0 if error.code is None else error.code
        raise
    except Exception:  # Python reports it before it calls exit handlers
        _exit_code = 1
        raise


def has_failed() -> bool:
    """Return whether the block has ended in an error."""
    return _exit_code not in (None, 0, EXIT_STOPPED)


def _end():
    if type(_exit_code) is not int:  # Python prints a text instead of a number
        return
    from t2i_tpu import installed

    # JAX has disconnected in an exit handler of its own.
    if os.environ.get("KERAS_BACKEND") != "jax" and (
        os.environ.get("TF_CONFIG") or os.environ.get("TPU_NAME") or installed.is_tpu_build()
    ):
        return
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed at the start
            stream.flush()
    except BrokenPipeError:
        os._exit(EXIT_UNREAD)
    except (OSError, ValueError):  # Python reports it
        return
    os._exit(_exit_code)


atexit.register(_end)
