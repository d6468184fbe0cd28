"""What ends a run before its last step: a signal, or a notice that its machine will be taken away.

SIGTERM and the first Ctrl-C let the loop in hand finish and save; the second Ctrl-C stops at once.
"""

import os
import signal
import socket
import threading
import urllib.error
import urllib.request

import tensorflow as tf
from absl import logging

from t2i_tpu.run import hosts

REASONS = ("SIGTERM", "SIGINT", "a maintenance event", "a preemption")
POLL_SECONDS = 5.0
# What Google's metadata server says of a machine, and the answer that means that it will go.
_NOTICES = {
    "a maintenance event": ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"),
    "a preemption": ("preempted", "TRUE"),
}


class Stop:
    """Listens from `with` on until its end.

    Signals are read by a thread: Python's own handlers wait for as long as the device does.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy, self.requested = strategy, set()
        self._handlers, self._over = {}, threading.Event()

    def reason(self) -> str | None:
        """Why to stop now; with several hosts all must ask, and all are told the same."""
        counts = [int(reason in self.requested) for reason in REASONS]
        counts = hosts.sum_over_hosts(self.strategy, counts)
        return next((reason for reason, count in zip(REASONS, counts, strict=True) if count), None)

    def __enter__(self) -> "Stop":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._poll, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._writer.close()

    def _handle(self, number, _frame):
        self.requested.add(signal.Signals(number).name)

    def _listen(self):
        seen = set()
        while numbers := self._reader.recv(1):
            name = signal.Signals(numbers[0]).name
            if name == "SIGINT" and seen:
                os.write(2, b"\nstopped at once; the latest whole checkpoint is as it was\n")
                os._exit(128 + signal.SIGINT)
            if name in REASONS and name not in seen:
                seen.add(name)
                self.requested.add(name)
                logging.info("%s: finishing these steps; Ctrl-C now stops at once", name)
        self._reader.close()

    def _poll(self):
        """Only what changes counts: a run that is started again meanwhile should go on."""
        try:
            before = {name: _ask(path) for name, (path, _) in _NOTICES.items()}
        except OSError:
            return  # not a machine of Google's
        while not self._over.wait(POLL_SECONDS):
            for name, (path, alarming) in _NOTICES.items():
                try:
                    now = _ask(path)
                except OSError:
                    continue
                if now == alarming != before[name]:
                    self.requested.add(name)
                    logging.info("the metadata server announces %s: finishing these steps", name)
                before[name] = now


def _ask(path: str) -> str:
    """Raises OSError where there is no answer."""
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        raise OSError
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{path}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:  # a machine without this kind of notice
            return ""
        raise
