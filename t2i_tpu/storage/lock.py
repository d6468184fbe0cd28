"""A lock that lets only one process at a time write to a folder, on disk or gs://.

`lock.json` names its owner and counts its heartbeats. An owner on this machine is alive as long as
its process is. An owner on another machine is alive if its heartbeat advances while this process
watches. Times are not compared, because the clocks of two machines may differ.
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
    """A process that holds the lock of a folder.

    Attributes:
      host: name of the host, for messages.
      machine: identifies the host's boot and the process's PID namespace, where `pid` is unique.
      pid: id of the process.
      started: when the process was started, in the kernel's ticks. It is needed because PIDs are
        reused.
      since: when the process took the lock, for messages.
      token: a random string that identifies this holding of the lock.
      beat: number of heartbeats, by which the owner has confirmed that it is alive.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str
    token: str
    beat: int = 0

    def __str__(self):
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """Holds a folder for the duration of a `with` block.

    Attributes:
      lost: the UserError that names the process that has taken over the folder, or None.

    Raises:
      UserError: another process holds the folder.
    """

    def __init__(self, folder: str, beat_seconds: float = BEAT_SECONDS):
        self.folder, self.beat_seconds = folder, beat_seconds
        self.path = posixpath.join(folder, "lock.json")
        self.owner = Owner(
            host=socket.gethostname(),
            machine=_identify_machine(),
            pid=os.getpid(),
            started=_read_start_time(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            token=uuid.uuid4().hex,
        )
        self.lost = None
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lock":
        other = _read_owner(self.path)
        if other and self._is_alive(other):
            raise self._make_error(other)
        if other:
            logging.info("taking over the lock of %s, which is no longer running", other)
        tf.io.gfile.makedirs(self.folder)
        files.write(self.path, _to_json(self.owner), shared=True)
        self._heart.start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._heart.join()
        with contextlib.suppress(UserError, tf.errors.OpError):
            self.check()
            tf.io.gfile.remove(self.path)

    def check(self) -> None:
        """Raise UserError if another process has taken over the folder."""
        other = _read_owner(self.path)
        if other and other.token != self.owner.token:
            raise self._make_error(other)

    def _make_error(self, other: Owner) -> UserError:
        return UserError(
            f"{self.folder!r} is being written by {other}; stop that process, or use another folder"
        )

    def _is_alive(self, other: Owner) -> bool:
        """Return whether an owner is alive. If it is on another machine, wait for a heartbeat."""
        if other.machine == self.owner.machine:
            return other.started != "" and _read_start_time(other.pid) == other.started
        logging.info("waiting %.0f s to see if %s is alive", 3 * self.beat_seconds, other)
        end = time.monotonic() + 3 * self.beat_seconds
        while time.monotonic() < end:
            time.sleep(self.beat_seconds / 4)
            if _read_owner(self.path) != other:
                return True
        return False

    def _beat(self):
        """Write a heartbeat at intervals until the lock is released or lost."""
        beat = 0
        while not self._released.wait(self.beat_seconds):
            beat += 1
            with contextlib.suppress(tf.errors.OpError):  # the next beat may succeed
                try:
                    self.check()
                except UserError as error:
                    self.lost = error
                    return
                owner = dataclasses.replace(self.owner, beat=beat)
                files.write(self.path, _to_json(owner), shared=True)


class NoLock:
    """Stands in for a `Lock` on hosts that write nothing."""

    lost = None

    def __enter__(self) -> "NoLock":
        return self

    def __exit__(self, *_):
        pass

    def check(self) -> None:
        """Do nothing."""


def _to_json(owner: Owner) -> str:
    return json.dumps(dataclasses.asdict(owner), indent=1) + "\n"


def _read_owner(path: str) -> Owner | None:
    """Return the owner that a lock names, or None if there is no lock or it is damaged."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return json_files.parse(file.read(), lambda fields: Owner(**fields))
    except (tf.errors.NotFoundError, json_files.DamagedJson):
        return None


def _identify_machine() -> str:
    """Return an id of this boot and PID namespace, or the host's name if there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _read_start_time(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks, or "" if it is dead.

    If there is no /proc, return "?" for a process that is alive.
    """
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
