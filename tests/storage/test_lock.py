"""Only one process at a time holds a workdir, and a dead process does not block it."""

import json
import os
import subprocess
import sys
import time

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage.lock import Lock

BEAT_SECONDS = 0.2


def test_second_lock_names_the_owner_until_it_is_released(tmp_path):
    workdir, path = str(tmp_path / "run"), tmp_path / "run" / "lock.json"
    with Lock(workdir, BEAT_SECONDS) as lock:
        content = json.loads(path.read_text())
        assert content["pid"] == os.getpid() and content["host"] in str(lock.owner)
        expected = f"is being written by process {os.getpid()} on "
        with pytest.raises(UserError, match=expected) as error:
            Lock(workdir, BEAT_SECONDS).__enter__()
        assert content["since"] in str(error.value) and "\n" not in str(error.value)
    assert not path.exists()
    with Lock(workdir, BEAT_SECONDS):
        pass


def start_owner(folder, action):
    """Start a process that takes the lock of a workdir and then runs the Python code `action`."""
    program = (
        "import os, time\n"
        "from t2i_tpu.storage.lock import Lock\n"
        f"Lock({str(folder)!r}, {BEAT_SECONDS}).__enter__()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", program + action], env=environment)


def test_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    process = start_owner(tmp_path, "os.kill(os.getpid(), 9)")
    assert process.wait() == -9 and (tmp_path / "lock.json").exists()
    start = time.monotonic()
    with Lock(str(tmp_path)):
        assert time.monotonic() - start < 5


def test_lock_of_a_living_process_is_respected(tmp_path):
    process = start_owner(tmp_path, "time.sleep(200)")
    try:
        while not (tmp_path / "lock.json").exists():
            time.sleep(0.05)
        with pytest.raises(UserError, match=f"is being written by process {process.pid} on "):
            Lock(str(tmp_path), BEAT_SECONDS).__enter__()
    finally:
        process.kill()
        process.wait()


# Updates the heartbeat of a lock, as a process on another machine would.
HEARTBEAT = """
import json, os, sys, time
path, content = sys.argv[1], json.loads(sys.argv[2])
for beat in range(1000):
    content["beat"] = beat
    with open(path + "x", "w") as file:
        file.write(json.dumps(content))
    os.rename(path + "x", path)
    time.sleep(0.2)
"""


def make_foreign_owner(tmp_path):
    """Return the content of a lock that a process on another machine holds."""
    with Lock(str(tmp_path), BEAT_SECONDS):
        content = json.loads((tmp_path / "lock.json").read_text())
    return content | {"machine": "another", "host": "far", "token": "x"}


def test_owner_on_another_machine_without_heartbeats_is_dead(tmp_path):
    """The clock of the other machine does not matter, even if it is ahead."""
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(make_foreign_owner(tmp_path) | {"since": "2099-01-01 00:00:00"}))
    os.utime(path, (4e9, 4e9))
    with Lock(str(tmp_path), BEAT_SECONDS) as lock:
        lock.check()


def test_owner_on_another_machine_with_heartbeats_is_alive(tmp_path):
    content = make_foreign_owner(tmp_path) | {"since": "2099-01-01 00:00:00"}
    path = tmp_path / "lock.json"
    process = subprocess.Popen([sys.executable, "-c", HEARTBEAT, str(path), json.dumps(content)])
    try:
        while not path.exists():
            time.sleep(0.01)
        with pytest.raises(UserError, match="on far, since 2099"):
            Lock(str(tmp_path), BEAT_SECONDS).__enter__()
    finally:
        process.kill()
        process.wait()


def test_owner_notices_that_it_has_lost_the_lock(tmp_path):
    """This happens if a machine was asleep and another took over. The other's lock is kept."""
    content, path = make_foreign_owner(tmp_path), tmp_path / "lock.json"
    with Lock(str(tmp_path), BEAT_SECONDS) as lock:
        assert lock.lost is None
        end = time.monotonic() + 20
        while not lock.lost and time.monotonic() < end:
            path.write_text(json.dumps(content))  # repeated, because a heartbeat may overwrite it
            time.sleep(BEAT_SECONDS)
        assert "on far" in str(lock.lost)
        with pytest.raises(UserError, match="on far"):
            lock.check()
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": 1}', "[" * 100_000])
def test_unreadable_lock_is_ignored(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with Lock(str(tmp_path), BEAT_SECONDS) as lock:
        lock.check()


def test_process_with_a_reused_pid_is_not_the_owner(tmp_path):
    with Lock(str(tmp_path), BEAT_SECONDS):
        content = json.loads((tmp_path / "lock.json").read_text())
    content |= {"started": "1", "token": "x"}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with Lock(str(tmp_path)):
        pass
