"""Tests that the harness leaves nothing behind, and that its denials and faults work."""

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


def find_processes(word: str) -> list[str]:
    """Return the command lines that contain a word, of all processes except this one."""
    lines = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word in line and str(os.getpid()) != path.parts[2]:
            lines.append(line)
    return lines


def test_close_leaves_nothing_behind():
    with harness.start_server() as gcs:
        folder = gcs.folder
        processes = pathlib.Path(f"/proc/{gcs.host.pid}/task/{gcs.host.pid}/children").read_text()
        sleeping = gcs.start(["sleep", "600"])
        assert len(processes.split()) == 1 and find_processes(str(folder))
    assert sleeping.returncode == -signal.SIGKILL
    assert not folder.exists() and not find_processes(str(folder))
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in processes.split())


@pytest.mark.parametrize("killed", ["tests", "host"])
def test_kill_leaves_nothing_behind(killed):
    """The server exits when the tests or the host process are killed."""
    program = (
        "import pathlib, time; from tests.gcs import harness\n"
        "with harness.start_server() as gcs:\n"
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
    os.kill(tests.pid if killed == "tests" else host, signal.SIGKILL)
    end = time.monotonic() + 10
    pids = [server] if killed == "host" else [host, server]
    while any(_is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in pids)
    tests.send_signal(signal.SIGINT)
    tests.communicate()
    assert not pathlib.Path(folder).exists()


def _is_running(pid):
    try:
        return ") Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_network_is_private(gcs):
    """Google's names map to loopback, the only device; the hosts file outside is unchanged."""
    result = gcs.run(["getent", "hosts", "storage.googleapis.com"])
    assert result.stdout.split()[0] == "127.0.0.1"
    assert "googleapis" not in pathlib.Path("/etc/hosts").read_text()
    devices = gcs.run(["cat", "/proc/net/dev"]).stdout
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]


def test_commands_keep_folder_environment_output_and_exit_code(gcs, bucket, tmp_path, monkeypatch):
    """It also tests that the server keeps its state between commands."""
    monkeypatch.chdir(tmp_path)
    gcs.put(f"{bucket}/a/b c.txt", b"x")
    name = bucket.removeprefix("gs://")
    url = f"https://storage.googleapis.com/{name}"
    assert gcs.run([*CURL, "-X", "PUT", "-T", "/etc/hostname", f"{url}/none"]).returncode == 0
    assert gcs.run([*CURL, f"{url}/a/b%20c.txt"]).stdout == "x200"
    result = gcs.run(["sh", "-c", "pwd; echo $X; echo $HOME; exit 3"], {"X": "1", "HOME": None})
    assert (result.returncode, result.stdout) == (3, f"{tmp_path}\n1\n\n")
    with pytest.raises(subprocess.TimeoutExpired):
        gcs.run(["sleep", "600"], timeout=0.5)
    gcs.empty(f"{bucket}/a")
    assert "a/b c.txt" not in gcs.files(bucket)


def test_missing_token_or_permission_is_denied(gcs, bucket):
    """The responses are the same as Google's."""
    name = bucket.removeprefix("gs://")
    url = f"https://storage.googleapis.com/storage/v1/b/{name}/o"
    result = gcs.run([*CURL[:4], url])
    assert "Anonymous caller" in result.stdout and result.stdout.endswith("401")
    with gcs.deny(name, "storage.objects.list", "storage.objects.create"):
        result = gcs.run([*CURL, url])
        assert "storage.objects.list" in result.stdout and result.stdout.endswith("403")
        upload = f"https://www.googleapis.com/upload/storage/v1/b/{name}/o?uploadType=media&name=x"
        assert gcs.run([*CURL, "-d", "x", upload]).stdout.endswith("403")
        assert gcs.run([*CURL, f"{url}/x"]).stdout.endswith("404")
        assert gcs.files(bucket) == {}
    assert gcs.run([*CURL, "-d", "x", upload]).stdout.endswith("200")


# The HTTP status that curl reports for each kind of fault; 0 means no response.
CODES = {"429": 429, "503": 503, "cut": 0, "lost": 0, "short": 200, "slow": 200}


@pytest.mark.parametrize("kind", [*FAULTS, "slow"])
def test_each_kind_of_fault_takes_effect(gcs, bucket, kind):
    """curl reports each fault, and a deletion takes effect only if the request is processed."""
    name = bucket.removeprefix("gs://")
    gcs.put(f"{bucket}/x", b"0123456789")
    url = f"https://storage.googleapis.com/storage/v1/b/{name}/o/x"
    with gcs.inject_faults(Faults(1.0, [kind])):
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

    def get_requests(seed):
        with gcs.inject_faults(Faults(0.3, seed=seed)):
            # curl retries by itself if it uses the same connection again.
            gcs.run([*CURL, "-H", "Connection: close", *(f"{url}{i}" for i in range(40))])
            return [request.split(" GET")[0] for request in gcs.report()["requests"]]

    first = get_requests(0)
    assert first == get_requests(0) != get_requests(1)
    num_faults = sum(1 for request in first if not request.startswith("GET"))
    assert len(first) == 40 and 4 <= num_faults <= 20


def test_status_of_an_upload_follows_the_protocol():
    """The protocol is at https://cloud.google.com/storage/docs/performing-resumable-uploads"""
    uploads, response = Uploads(), (200, [], json.dumps({"name": "x"}).encode())
    assert uploads.status("u", "bytes */10") == (308, [], b"")
    assert uploads.status("u", "bytes 0-3/10") is None
    uploads.record("u", "bytes 0-3/10", (308, [], b""))
    assert uploads.status("u", "bytes */10") == (308, [("Range", "bytes=0-3")], b"")
    assert uploads.status("u", "bytes */4") is None  # the server finishes it
    uploads.record("u", "bytes 4-9/10", response)
    assert uploads.status("u", "bytes */10") == uploads.status("u", "bytes 4-9/10") == response
