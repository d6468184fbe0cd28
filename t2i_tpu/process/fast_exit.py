"""Ends a process without destroying TensorFlow's graphs, which takes seconds and may hang.

Python calls exit handlers in the reverse order of their registration, and this module's handler must run
last. Therefore, interruptible.py imports it before the modules that register others.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator

from t2i_tpu.process.output import EXIT_UNREAD

_exit_code: object = None


@contextlib.contextmanager
def skip_destruction() -> Iterator[None]:
    """If the block ends with sys.exit, end the process right after Python's exit handlers.

    This is not done on a TPU or with several hosts, where TensorFlow disconnects when it is destroyed.
    """
    try:
        yield
    except SystemExit as error:
        global _exit_code
        _exit_code = 0 if error.code is None else error.code
        raise


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
        os._exit(EXIT_UNREAD)
    except (OSError, ValueError):  # Python reports it
        return
    os._exit(_exit_code)


atexit.register(_end)
