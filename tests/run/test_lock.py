"""One process at a time writes a workdir; the one that is gone is no hindrance."""

import json
import os
import subprocess
import sys
import time

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.run.lock import Lock

BEAT = 0.2


def test_a_held_workdir_is_refused_by_name_and_free_afterwards(tmp_path):
    path = tmp_path / "run" / "lock.json"
    with Lock(str(tmp_path / "run"), BEAT) as lock:
        content = json.loads(path.read_text())
        assert content["pid"] == os.getpid() and content["host"] in str(lock.owner)
        with pytest.raises(UserError, match=f"is being written by process {os.getpid()} on ") as e:
            Lock(str(tmp_path / "run"), BEAT).__enter__()
        assert content["since"] in str(e.value) and "\n" not in str(e.value)
    assert not path.exists()
    with Lock(str(tmp_path / "run"), BEAT):
        pass


def held_by_another(folder, action):
    """The workdir after a process of its own took it and did `action`."""
    program = (
        f"import os\nfrom t2i_tpu.run.lock import Lock\nLock({str(folder)!r}, {BEAT}).__enter__()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", program + action], env=environment)


def test_a_killed_process_holds_nothing(tmp_path):
    process = held_by_another(tmp_path, "os.kill(os.getpid(), 9)\n")
    assert process.wait() == -9 and (tmp_path / "lock.json").exists()
    start = time.monotonic()
    with Lock(str(tmp_path)):  # and there is nothing to wait for
        assert time.monotonic() - start < 5


def test_a_living_process_holds_it(tmp_path):
    process = held_by_another(tmp_path, "import time\ntime.sleep(200)\n")
    try:
        while not (tmp_path / "lock.json").exists():
            time.sleep(0.05)
        with pytest.raises(UserError, match=f"is being written by process {process.pid} on "):
            Lock(str(tmp_path), BEAT).__enter__()
    finally:
        process.kill()
        process.wait()


def test_another_machine_is_watched_for_its_beats(tmp_path):
    """Clocks do not count: this one's beats stop, and long before that its clock was ahead."""
    with Lock(str(tmp_path), BEAT):
        content = json.loads((tmp_path / "lock.json").read_text())
    content |= {"machine": "another", "host": "far", "token": "x", "since": "2099-01-01 00:00:00"}
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(content))
    os.utime(path, (4e9, 4e9))
    with Lock(str(tmp_path), BEAT) as lock:
        lock.check()

    beating = "import json, sys, time\npath, content = sys.argv[1], json.loads(sys.argv[2])\n"
    beating += "for beat in range(1000):\n    content['beat'] = beat\n"
    beating += "    open(path + 'x', 'w').write(json.dumps(content))\n"
    beating += "    __import__('os').rename(path + 'x', path)\n    time.sleep(0.2)\n"
    process = subprocess.Popen([sys.executable, "-c", beating, str(path), json.dumps(content)])
    try:
        while not path.exists():
            time.sleep(0.01)
        with pytest.raises(UserError, match="on far, since 2099"):
            Lock(str(tmp_path), BEAT).__enter__()
    finally:
        process.kill()
        process.wait()


def test_who_lost_it_knows_and_leaves_it_alone(tmp_path):
    """As after a sleep, in which another machine took over."""
    path = tmp_path / "lock.json"
    with Lock(str(tmp_path), BEAT) as lock:
        content = json.loads(path.read_text()) | {"machine": "another", "host": "far", "token": "x"}
        assert lock.lost is None
        end = time.monotonic() + 20
        while not lock.lost and time.monotonic() < end:
            path.write_text(json.dumps(content))  # again: a beat may come between
            time.sleep(BEAT)
        assert "on far" in str(lock.lost)
        with pytest.raises(UserError, match="on far"):
            lock.check()
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"host": 1}', "[" * 100_000])
def test_a_lock_that_nobody_can_read_is_nobodys(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with Lock(str(tmp_path), BEAT) as lock:
        lock.check()


def test_a_pid_that_was_used_again_is_another_process(tmp_path):
    with Lock(str(tmp_path), BEAT):
        content = json.loads((tmp_path / "lock.json").read_text())
    content |= {"started": "1", "token": "x"}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with Lock(str(tmp_path)):
        pass
