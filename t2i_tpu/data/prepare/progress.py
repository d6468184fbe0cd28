"""Shows the progress of a preparation: as a bar on a terminal, and otherwise as lines in the log."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging
from tqdm import tqdm

T = TypeVar("T")

_SECONDS = 10  # between two lines


class Progress:
    """Counts what has been done.

    Args:
      what: the work, for example "writing the shards".
      unit: what is counted, in the plural.
      total: how much there is to do, or None if that is unknown.
      done: how much had been done before.
    """

    def __init__(self, what: str, unit: str, total: int | None, done: int):
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self.start = time.monotonic()
        self.bar = tqdm(None, what, total, initial=done, unit=f" {unit}", disable=None)

    def advance(self) -> None:
        """Count one more."""
        self.done += 1
        self.bar.update()

    def iterate(self, values: Iterable[T]) -> Iterator[T]:
        """Yield the values, and count each."""
        for value in values:
            yield value
            self.advance()

    def log(self) -> None:
        """Log a line that says how much has been done."""
        total = "" if self.total is None else f" of {self.total}"
        seconds = time.monotonic() - self.start
        logging.info("%s: %d%s %s after %.0f s", self.what, self.done, total, self.unit, seconds)


@contextlib.contextmanager
def show_progress(
    what: str, unit: str, total: int | None = None, done: int = 0
) -> Iterator[Progress]:
    """Show the progress of the work in the block, at least every ten seconds.

    The arguments are those of `Progress`, which is yielded.
    """
    progress, has_ended = Progress(what, unit, total, done), threading.Event()

    def log_lines():
        while not has_ended.wait(_SECONDS):
            progress.log()

    thread = threading.Thread(target=log_lines, daemon=True)
    with progress.bar:
        if progress.bar.disable:
            thread.start()
        try:
            yield progress
        finally:
            has_ended.set()
