"""Ends a process without destroying TensorFlow's graphs, which takes seconds and may hang.

Python calls exit handlers in the reverse order of their registration, and this module's handler must run
last. Therefore, interruptible.py imports it before the modules that register others.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

# Exit code of a script whose output goes to a program, such as head, that has ended.
_UNREAD = 128 + signal.SIGPIPE

_exit_code: object = None


@contextlib.contextmanager
def skip_destruction() -> Iterator[None]:
    """If the block ends with sys.exit, end the process right after Python's exit handlers.

    This is not done on a TPU or with several hosts, where TensorFlow disconnects when it is destroyed.

    If the block cannot write to stdout because the program that read it has ended, exit with the code
    of a program that SIGPIPE ends, without a message.
    """
    try:
        yield
    except SystemExit as error:
        global _exit_code
        _exit_code = 0 if error.code is None else error.code
        raise
    except BrokenPipeError:
        if not _is_stdout_unread():
            raise
        _exit_code = _UNREAD
        sys.exit(_exit_code)


def _is_stdout_unread() -> bool:
    """Return whether stdout is a pipe whose reader has ended."""
    poll = select.poll()
    poll.register(1, 0)  # errors are reported in any case
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _end():
    if type(_exit_code) is not int:  # there was an error, or a text that Python prints
        return
    from t2i_tpu import installed

    if os.environ.get("TF_CONFIG") or os.environ.get("TPU_NAME") or installed.is_tpu_build():
        return
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed at the start
            stream.flush()
    except BrokenPipeError:
        os._exit(_UNREAD)
    except (OSError, ValueError):  # Python reports it
        return
    os._exit(_exit_code)


atexit.register(_end)
