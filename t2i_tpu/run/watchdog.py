"""Says what a run waits for when no step is done for long. It never ends anything."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging


class Watchdog:
    """Watches from `with` on until its end."""

    def __init__(
        self,
        minutes: float,  # without a step until the first line; then twice as long, and so on
        waits_for_input: Callable[[], bool],  # whether the device loop does, now
    ):
        self.seconds, self.waits_for_input = 60 * minutes, waits_for_input
        self._doing, self._over = "the device (the first step is compiled)", threading.Event()
        self._since = time.monotonic()

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What the host does from here on, for as long as the block takes."""
        before, self._doing = self._doing, what
        yield
        self._doing = before

    def step(self) -> None:
        """Some step was done."""
        self._since, self._doing = time.monotonic(), "the device"

    def __enter__(self) -> "Watchdog":
        self._since = time.monotonic()
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()

    def _watch(self):
        since, patience = self._since, self.seconds
        while not self._over.wait(self.seconds / 20):
            if since != self._since:
                since, patience = self._since, self.seconds
            waited = time.monotonic() - since
            if waited < patience:
                continue
            patience *= 2
            what = self._doing
            if what.startswith("the device") and self.waits_for_input():
                what = "input"
            logging.warning("no step for %.1f minutes: waiting for %s", waited / 60, what)
