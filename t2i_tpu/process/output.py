"""What a script does if its output cannot be written, such as after `| head -1`."""

import contextlib
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator

from t2i_tpu.errors import UserError

# Exit code of a script whose output goes to a program, such as head, that has ended.
EXIT_UNREAD = 128 + signal.SIGPIPE
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare() -> None:
    """Open the standard streams that are closed, and let characters that one cannot show pass.

    Without this, the first file that is opened would get the number of a closed stream, and would
    contain the messages that TensorFlow writes there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def exit_if_lost() -> Iterator[None]:
    """Flush stdout after the block. If the block or this cannot write to it, end the block early.

    Raises:
      SystemExit: with EXIT_UNREAD, as if by SIGPIPE: nobody reads stdout any more.
      UserError: there is another reason, such as a full disk.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            _discard()
            sys.exit(EXIT_UNREAD)
        if error.filename is None and error.errno in _CANNOT_WRITE:
            _discard()
            raise UserError(f"cannot write the output: {error.strerror}") from error
        raise


def _is_unread() -> bool:
    """Return whether stdout is a pipe that has no reader."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))


def _discard() -> None:
    """Discard what is still in the buffer of stdout. Python would report it at the exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
