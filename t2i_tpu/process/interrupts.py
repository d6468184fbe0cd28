"""Ends a launch script after Ctrl-C or SIGTERM with one line on stderr and exit code 130 or 143.

Each script imports interruptible.py first, which calls `install`, because the other imports take
seconds. While a training run can save a checkpoint, run/stop.py handles the signals.

The handler raises KeyboardInterrupt, which closes files and releases locks on its way. Python runs
it only when TensorFlow returns, and destructors and some imports swallow the exception. A thread
therefore raises it again after some seconds, and finally ends the process. A second signal ends it at
once.
"""

import _thread
import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

_MESSAGES = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}
_SECONDS, _TRIES = 3, 3

_received: list[int] = []  # the signal that ends this process
_servers: list[int] = []  # processes to kill before this one ends
_is_exiting = False
_announced: list[int] = []  # the signal that was announced
_lock = _thread.allocate_lock()
_stderr = 2


@contextlib.contextmanager
def exit_quietly() -> Iterator[None]:
    """Exit with 130 or 143 after the block if a signal was received, whatever the block raised."""
    try:
        yield
    except BaseException:
        # TensorFlow turns some KeyboardInterrupts into other errors.
        if not _received:
            raise
    if _received:
        global _is_exiting
        _is_exiting = True
        import multiprocessing  # takes as long as all imports above

        _kill_servers()
        for child in multiprocessing.active_children():
            child.kill()
        _announce(_received[0])
        sys.exit(128 + _received[0])


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """Let a signal end the process at once, without a message, during the block.

    This is for calls of TensorFlow that wait without releasing Python's interpreter lock. Neither the
    handler nor the thread could run.
    """
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _MESSAGES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def was_received() -> bool:
    """Return whether a signal is ending this process."""
    return bool(_received)


def kill_after_signal(process_id: int) -> None:
    """Let a signal that ends this process also kill a process that `multiprocessing` does not list."""
    _servers.append(process_id)


def _kill_servers() -> None:
    for process_id in _servers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


@contextlib.contextmanager
def block() -> Iterator[None]:
    """Block Ctrl-C in the processes that are started inside the block, and in their children.

    A terminal sends Ctrl-C to all processes, but only the first one should react and end the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise(number: int, _frame) -> None:
    if not _received:
        _received.append(number)
        raise KeyboardInterrupt


def _watch(reader: int, main_thread: int) -> None:
    """Announce the first signal. End the process after a second one, or after some seconds."""
    number = 0
    while number not in _MESSAGES:
        number = os.read(reader, 1)[0]
    _announce(number)
    for _ in range(_TRIES):
        if select.select([reader], [], [], _SECONDS)[0]:
            break
        _raise_again(main_thread)
    _exit(number)


def _raise_again(main_thread: int) -> None:
    """Raise KeyboardInterrupt in the main thread, unless the process already exits."""
    if not _is_exiting:
        import ctypes

        thread, error = ctypes.c_ulong(main_thread), ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)


def _announce(number: int) -> None:
    """Write the one line, unless it was written."""
    with _lock:
        if _announced:
            return
        _announced.append(number)
        # A progress bar or ^C may be in the last line of a terminal.
        start = "\n" if os.isatty(_stderr) else ""
        line = f"{start}{os.path.basename(sys.argv[0])}: {_MESSAGES[number]}\n"
        with contextlib.suppress(OSError):
            os.write(_stderr, line.encode(errors="replace"))


def _exit(number: int) -> None:
    _announce(number)
    _kill_servers()
    os._exit(128 + number)


def install() -> None:
    """Install the handler for Ctrl-C and SIGTERM. Call this once, from the main thread.

    Do nothing in a process that was started in a `block`, because its parent handles the signals.
    """
    global _stderr
    if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        return
    _stderr = os.dup(2)  # tensorflow_quietly.py redirects stderr for a while
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _MESSAGES:
        signal.signal(number, _raise)
    _thread.start_new_thread(_watch, (reader, _thread.get_ident()))
    # A script may be interrupted before or after `exit_quietly`, or in a destructor.
    show_error, show_ignored_error = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda *error: _exit(_received[0]) if _received else show_error(*error)
    sys.unraisablehook = lambda error: (
        _raise_again(_thread.get_ident()) if _received else show_ignored_error(error)
    )
