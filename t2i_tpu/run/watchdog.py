"""Reports, if no step is done for a long time, what the run is waiting for. It never ends the run."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging


class Watchdog:
    """Watches a run for the duration of a `with` block."""

    def __init__(self, minutes: float, is_waiting_for_input: Callable[[], bool]):
        """Create a watchdog.

        Args:
          minutes: time without a step until the first report. The second report comes after twice
            that time, the third after four times, and so on. 0 means never.
          is_waiting_for_input: returns whether the device loop is waiting for input.
        """
        self.seconds, self.is_waiting_for_input = 60 * minutes, is_waiting_for_input
        self._activity, self._ended = (
            "the device (the first step is being compiled)",
            threading.Event(),
        )
        self._since = time.monotonic()

    @contextlib.contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Set the activity of the host that reports name while the block runs."""
        previous, self._activity = self._activity, activity
        try:
            yield
        finally:
            self._activity = previous

    def step(self) -> None:
        """Record that a step was done, which restarts the timer."""
        self._since, self._activity = time.monotonic(), "the device"

    def __enter__(self) -> "Watchdog":
        self._since = time.monotonic()
        if self.seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()

    def _watch(self):
        since, patience = self._since, self.seconds
        while not self._ended.wait(self.seconds / 20):
            # A step restarts the timer.
            if since != self._since:
                since, patience = self._since, self.seconds
            waited = time.monotonic() - since
            if waited < patience:
                continue
            patience *= 2
            activity = self._activity
            if activity.startswith("the device") and self.is_waiting_for_input():
                activity = "input"
            logging.warning("no step for %.1f minutes: waiting for %s", waited / 60, activity)
