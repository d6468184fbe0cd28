"""The harness itself: nothing is left of it, and what it refuses and breaks is what was asked for."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.gcs import harness
from tests.gcs.front import SLOW_SECONDS, TOKEN
from tests.gcs.harness import FAULTS, Faults
from tests.gcs.uploads import Uploads
from tests.launch.launcher import ROOT

CURL = ["curl", "-sS", "-w", "%{http_code}", "-H", f"Authorization: Bearer {TOKEN}"]


def living(word: str) -> list[str]:
    """The command lines of processes that have this word in them."""
    lines = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word in line and str(os.getpid()) != path.parts[2]:
            lines.append(line)
    return lines


def test_nothing_is_left(tmp_path):
    with harness.started() as gcs:
        folder = gcs.folder
        processes = pathlib.Path(f"/proc/{gcs.host.pid}/task/{gcs.host.pid}/children").read_text()
        sleeping = gcs.start(["sleep", "600"])
        assert len(processes.split()) == 1 and living(str(folder))
    assert sleeping.returncode == -signal.SIGKILL
    assert not folder.exists() and not living(str(folder))
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in processes.split())


@pytest.mark.parametrize("who", ["tests", "host"])
def test_nothing_is_left_after_a_kill(who):
    """Neither the death of the tests nor of the process in the namespaces leaves the server."""
    program = (
        "import pathlib, time; from tests.gcs import harness\n"
        "with harness.started() as gcs:\n"
        "    children = pathlib.Path(f'/proc/{gcs.host.pid}/task/{gcs.host.pid}/children')\n"
        "    print(gcs.folder, gcs.host.pid, children.read_text(), flush=True); time.sleep(600)\n"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder, *pids = tests.stdout.readline().split()
    host, server = map(int, pids)
    os.kill(tests.pid if who == "tests" else host, signal.SIGKILL)
    end = time.monotonic() + 10
    gone = [server] if who == "host" else [host, server]
    while any(_runs(pid) for pid in gone) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in gone)
    tests.send_signal(signal.SIGINT)
    tests.communicate()
    assert not pathlib.Path(folder).exists()


def _runs(pid):
    try:
        return ") Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_private_network(gcs):
    """Only loopback, and Google's names lead there; the world outside has its hosts file still."""
    done = gcs.run(["getent", "hosts", "storage.googleapis.com"])
    assert done.stdout.split()[0] == "127.0.0.1"
    assert "googleapis" not in pathlib.Path("/etc/hosts").read_text()
    devices = gcs.run(["cat", "/proc/net/dev"]).stdout
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]


def test_commands(gcs, bucket, tmp_path, monkeypatch):
    """State stays between them; folder, environment, output and exit code are the command's own."""
    monkeypatch.chdir(tmp_path)
    gcs.put(f"{bucket}/a/b c.txt", b"x")
    name = bucket.removeprefix("gs://")
    url = f"https://storage.googleapis.com/{name}"
    assert gcs.run([*CURL, "-X", "PUT", "-T", "/etc/hostname", f"{url}/none"]).returncode == 0
    assert gcs.run([*CURL, f"{url}/a/b%20c.txt"]).stdout == "x200"
    done = gcs.run(["sh", "-c", "pwd; echo $X; echo $HOME; exit 3"], {"X": "1", "HOME": None})
    assert (done.returncode, done.stdout) == (3, f"{tmp_path}\n1\n\n")
    with pytest.raises(subprocess.TimeoutExpired):
        gcs.run(["sleep", "600"], timeout=0.5)
    gcs.empty(f"{bucket}/a")
    assert "a/b c.txt" not in gcs.files(bucket)


def test_who_may_not(gcs, bucket):
    """Google's own answers to who has no token and to who lacks a permission."""
    name = bucket.removeprefix("gs://")
    url = f"https://storage.googleapis.com/storage/v1/b/{name}/o"
    done = gcs.run([*CURL[:4], url])
    assert "Anonymous caller" in done.stdout and done.stdout.endswith("401")
    with gcs.denied(name, "storage.objects.list", "storage.objects.create"):
        done = gcs.run([*CURL, url])
        assert "storage.objects.list" in done.stdout and done.stdout.endswith("403")
        upload = f"https://www.googleapis.com/upload/storage/v1/b/{name}/o?uploadType=media&name=x"
        assert gcs.run([*CURL, "-d", "x", upload]).stdout.endswith("403")
        assert gcs.run([*CURL, f"{url}/x"]).stdout.endswith("404")
        assert gcs.files(bucket) == {}
    assert gcs.run([*CURL, "-d", "x", upload]).stdout.endswith("200")


CODES = {"429": 429, "503": 503, "cut": 0, "lost": 0, "short": 200, "slow": 200}


@pytest.mark.parametrize("kind", [*FAULTS, "slow"])
def test_kinds_of_faults(gcs, bucket, kind):
    """What curl says of each, and whether the deletion that it asks for is done."""
    name = bucket.removeprefix("gs://")
    gcs.put(f"{bucket}/x", b"0123456789")
    url = f"https://storage.googleapis.com/storage/v1/b/{name}/o/x"
    with gcs.faults(Faults(1.0, [kind])):
        begin = time.monotonic()
        read = gcs.run([*CURL, f"{url}?alt=media"])
        seconds = time.monotonic() - begin
        gcs.run([*CURL, "-X", "DELETE", url])
        assert gcs.report()["faults"] == {kind: 2}
    assert read.stdout.endswith(f"{CODES[kind]:03d}")
    assert (read.returncode == 0) == (kind in ("429", "503", "slow"))
    if kind in ("short", "slow"):
        assert read.stdout[:-3] == ("01234" if kind == "short" else "0123456789")
    assert (seconds >= SLOW_SECONDS) == (kind == "slow")
    assert (gcs.files(bucket) == {}) == (kind in ("lost", "short", "slow"))


def test_faults_follow_the_seed(gcs, bucket):
    url = f"https://storage.googleapis.com/{bucket.removeprefix('gs://')}/x"

    def fates(seed):
        with gcs.faults(Faults(0.3, seed=seed)):
            # On one connection curl would ask again by itself.
            gcs.run([*CURL, "-H", "Connection: close", *(f"{url}{i}" for i in range(40))])
            return [request.split(" GET")[0] for request in gcs.report()["requests"]]

    first = fates(0)
    assert first == fates(0) != fates(1)
    assert len(first) == 40 and 4 <= sum(not fate.startswith("GET") for fate in first) <= 20


def test_status_of_an_upload():
    """Google's protocol: https://cloud.google.com/storage/docs/performing-resumable-uploads"""
    uploads, done = Uploads(), (200, [], json.dumps({"name": "x"}).encode())
    assert uploads.status("u", "bytes */10") == (308, [], b"")
    assert uploads.status("u", "bytes 0-3/10") is None
    uploads.note("u", "bytes 0-3/10", (308, [], b""))
    assert uploads.status("u", "bytes */10") == (308, [("Range", "bytes=0-3")], b"")
    assert uploads.status("u", "bytes */4") is None  # which finishes it
    uploads.note("u", "bytes 4-9/10", done)
    assert uploads.status("u", "bytes */10") == uploads.status("u", "bytes 4-9/10") == done
