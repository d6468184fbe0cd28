"""Ends a process without the destruction of TensorFlow's graphs, which takes seconds and may hang."""

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from t2i_tpu import installed
from t2i_tpu.process import interrupts

_exit_code: int | None = None


@contextlib.contextmanager
def skip_destruction() -> Iterator[None]:
    """If the block ends with sys.exit, end the process right after Python's exit handlers.

    On a TPU and with several hosts, TensorFlow disconnects when it is destroyed, so it is.
    """
    # Handlers run in the reverse order of their registration, so this one runs last.
    atexit.register(_end)
    try:
        yield
    except SystemExit as error:
        global _exit_code
        _exit_code = 0 if error.code is None else error.code
        raise


def _end():
    is_distributed = os.environ.get("TF_CONFIG") or os.environ.get("TPU_NAME")
    if is_distributed or installed.is_tpu_build() or interrupts.was_received():
        return
    if type(_exit_code) is not int:  # Python prints anything else
        return
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python reports a closed stream
        return
    os._exit(_exit_code)
