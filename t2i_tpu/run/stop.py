"""Reasons to end a run before its last step: a signal, or a notice that its machine will be taken away.

After SIGTERM or the first Ctrl-C, the run finishes the current device loop and saves a checkpoint. A
Ctrl-C after that stops it at once.
"""

import os
import signal
import socket
import threading

from absl import logging

from t2i_tpu import metadata
from t2i_tpu.engines.engine import Engine

REASONS = ("SIGTERM", "SIGINT", "a maintenance event", "a preemption")
POLL_SECONDS = 5.0
# Reason -> the entry of Google's metadata server that announces it, and the value of the entry then.
_NOTICES = {
    "a maintenance event": ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"),
    "a preemption": ("preempted", "TRUE"),
}


class Stop:
    """Listens for reasons to stop for the duration of a `with` block.

    A thread reads the signals, because Python's own handlers run only when the device loop returns.

    Attributes:
      requested: the reasons for which this host should stop, from REASONS.
    """

    def __init__(self, engine: Engine):
        self.engine, self.requested = engine, set()
        self._handlers, self._ended = {}, threading.Event()

    def agree_on_reason(self) -> str | None:
        """Return the reason to stop now, or None.

        If there are several processes, every one must call this method. All get the same result.
        """
        counts = [int(reason in self.requested) for reason in REASONS]
        counts = self.engine.sum_over_processes(counts)
        return next((reason for reason, count in zip(REASONS, counts, strict=True) if count), None)

    def __enter__(self) -> "Stop":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._read_signals, daemon=True).start()
        threading.Thread(target=self._poll_notices, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._writer.close()

    def _handle(self, number, _frame):
        self.requested.add(signal.Signals(number).name)

    def _read_signals(self):
        seen = set()
        while numbers := self._reader.recv(1):
            name = signal.Signals(numbers[0]).name
            if name == "SIGINT" and seen:
                os.write(2, b"\nstopped at once; the newest intact checkpoint is unchanged\n")
                os._exit(128 + signal.SIGINT)
            if name in REASONS and name not in seen:
                seen.add(name)
                self.requested.add(name)
                logging.info("%s: finishing the current steps; Ctrl-C stops the run at once", name)
        self._reader.close()

    def _poll_notices(self):
        """Request a stop when a notice appears.

        A notice that was there from the start does not count: a run that is started again before
        its machine is taken away should train until then.
        """
        try:
            before = {reason: metadata.read(path) for reason, (path, _) in _NOTICES.items()}
        except OSError:
            return  # not one of Google's machines
        while not self._ended.wait(POLL_SECONDS):
            for reason, (path, alarm) in _NOTICES.items():
                try:
                    value = metadata.read(path)
                except OSError:
                    continue
                if value == alarm and before[reason] != alarm:
                    self.requested.add(reason)
                    logging.info(
                        "the metadata server announces %s: finishing the current steps", reason
                    )
                before[reason] = value
