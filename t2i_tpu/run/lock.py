"""One process at a time writes a workdir, on disk or gs://.

`lock.json` names its owner and counts its heartbeats. An owner on this machine is there as long as
its process is. One on another machine is there if its beats go on while we watch: clocks of two
machines need not agree.
"""

import contextlib
import dataclasses
import json
import os
import posixpath
import socket
import threading
import time
import uuid

import tensorflow as tf
from absl import logging

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, json_files

BEAT_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process that holds a workdir."""

    host: str
    machine: str  # the host's boot and the process's namespace: where `pid` means something
    pid: int
    started: str  # of the process, in the kernel's ticks: pids are used again
    since: str  # for people
    token: str
    beat: int = 0

    def __str__(self):
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """Holds a workdir from `with` on until its end.

    Attributes:
      lost: the UserError that says who took the workdir over since, or None.

    Raises:
      UserError: another process holds it; it is named.
    """

    def __init__(self, workdir: str, beat_seconds: float = BEAT_SECONDS):
        self.workdir, self.beat_seconds = workdir, beat_seconds
        self.path = posixpath.join(workdir, "lock.json")
        self.owner = Owner(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            token=uuid.uuid4().hex,
        )
        self.lost = None
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lock":
        other = _read(self.path)
        if other and self._is_alive(other):
            raise self._held_by(other)
        if other:
            logging.info("the lock of %s is taken over: it is gone", other)
        tf.io.gfile.makedirs(self.workdir)
        files.write(self.path, _text(self.owner))
        self._beating.start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._beating.join()
        with contextlib.suppress(UserError, tf.errors.OpError):
            self.check()
            tf.io.gfile.remove(self.path)

    def check(self) -> None:
        """Raises UserError if another process has taken the workdir since."""
        other = _read(self.path)
        if other and other.token != self.owner.token:
            raise self._held_by(other)

    def _held_by(self, other):
        return UserError(
            f"{self.workdir!r} is being written by {other}; stop that process, or use another --workdir"
        )

    def _is_alive(self, other):
        if other.machine == self.owner.machine:
            return other.started != "" and _started(other.pid) == other.started
        logging.info("waiting %.0f s to see if %s is alive", 3 * self.beat_seconds, other)
        end = time.monotonic() + 3 * self.beat_seconds
        while time.monotonic() < end:
            time.sleep(self.beat_seconds / 4)
            if _read(self.path) != other:
                return True
        return False

    def _beat(self):
        beat = 0
        while not self._released.wait(self.beat_seconds):
            beat += 1
            with contextlib.suppress(tf.errors.OpError):  # the next one may get through
                try:
                    self.check()
                except UserError as error:
                    self.lost = error
                    return
                files.write(self.path, _text(dataclasses.replace(self.owner, beat=beat)))


class NoLock:
    """Stands in for a `Lock` on hosts that write nothing."""

    lost = None

    def __enter__(self) -> "NoLock":
        return self

    def __exit__(self, *_):
        pass

    def check(self) -> None:
        """Do nothing."""


def _text(owner):
    return json.dumps(dataclasses.asdict(owner), indent=1) + "\n"


def _read(path) -> Owner | None:
    """A lock that nobody can read is nobody's."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return json_files.parse(file.read(), lambda fields: Owner(**fields))
    except (tf.errors.NotFoundError, json_files.DamagedJson):
        return None


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process was started; nothing if it is dead. Without /proc, "?" if there is one."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "?"
