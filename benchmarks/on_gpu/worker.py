"""A process that computes with one framework, and that can be stopped at a deadline.

Compiling cannot be interrupted, so the only way to keep to a time budget is to end the process. It
also keeps the memory and the failures of the frameworks apart.
"""

import contextlib
import importlib
import multiprocessing
import os
import pathlib
import signal
import time
import traceback


class WorkerError(Exception):
    """A call failed. The message is one line."""


class OutOfTime(WorkerError):
    """A call did not return before its deadline."""


class Worker:
    """Runs the methods of an object in another process.

    The process starts with the first call, and again with the first call after a deadline.

    Args:
      target: the object's class, as "module:class".
      log: the file that gets everything that the process prints.
      environment: environment variables to set in the process.
      **arguments: the arguments of the class.
    """

    def __init__(self, target: str, log: pathlib.Path, environment: dict[str, str], **arguments):
        self._start_arguments = (target, str(log), environment, arguments)
        self._process = self._connection = None

    def start(self, method: str, **arguments) -> None:
        """Start a call. `finish` returns its result."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._start_arguments))
            self._process.start()
            theirs.close()
        with contextlib.suppress(OSError):  # `finish` notices that the process has ended
            self._connection.send((method, arguments))

    def finish(self, deadline: float) -> object:
        """Return the result of the call, or raise WorkerError if it failed.

        Args:
          deadline: the value of time.monotonic() at which to stop waiting and end the process.
        """
        try:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                self.close()
                raise OutOfTime("out of time")
            error, result = self._connection.recv()
        except (EOFError, OSError) as reason:
            self._process.join(5)
            code = self._process.exitcode
            self.close()
            raise WorkerError(f"the process ended with {code}") from reason
        if error:
            raise WorkerError(error)
        return result

    def call(self, method: str, deadline: float, **arguments) -> object:
        """Start a call and return its result."""
        self.start(method, **arguments)
        return self.finish(deadline)

    def close(self) -> None:
        """End the process and those that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # if it did not have its own group yet
        self._process.join()
        self._connection.close()
        self._process = self._connection = None


def _serve(connection, target, log, environment, arguments) -> None:
    """Answer calls until the other side closes the connection."""
    os.setpgrp()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    instance = None
    while True:
        try:
            method, options = connection.recv()
        except EOFError:
            return
        try:
            if instance is None:
                module, name = target.split(":")
                instance = getattr(importlib.import_module(module), name)(**arguments)
            answer = None, getattr(instance, method)(**options)
        except Exception as error:
            traceback.print_exc()
            answer = _describe(error), None
        connection.send(answer)


def _describe(error: Exception) -> str:
    """Return an error as one line, which is always "out of memory" if memory ran out."""
    text = f"{type(error).__name__}: {error}".strip()
    if any(
        word in text
        for word in ("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory", "ALLOC_FAILED")
    ):
        return "out of memory"
    line = text.splitlines()[0]
    return line[:200]
