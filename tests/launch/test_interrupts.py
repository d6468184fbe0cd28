"""Ctrl-C and SIGTERM end a script with one line and exit code 130 or 143, and leave no process behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.launch.launcher import ROOT

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def list_group(group):
    """Return the ids of the processes of a process group, except those that have ended."""
    members = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, member_of, *_ = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(member_of) == group and state != "Z":
            members.append(int(name))
    return members


def interrupt(script, flags, is_time, number=signal.SIGINT, entire_group=True):
    """Start a script, send it a signal when `is_time()`, and check how it ends.

    A terminal sends Ctrl-C to the entire group of processes, and `kill` a signal to one process only.
    """
    process = subprocess.Popen(
        [sys.executable, f"launch/{script}", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not is_time():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        (os.killpg if entire_group else os.kill)(process.pid, number)
        _, stderr = process.communicate(timeout=60)
        end = time.monotonic() + 20
        while list_group(process.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not list_group(process.pid)
    finally:
        for member in list_group(process.pid):
            os.kill(member, signal.SIGKILL)
    words = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert (process.returncode, stderr.splitlines()[-1:]) == (CODES[number], [f"{script}: {words}"])
    assert len(stderr.splitlines()) == 1, stderr


def after(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


@pytest.fixture
def photos(tmp_path):
    """A folder of images that takes a while to prepare."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        image = Image.fromarray(rng.integers(0, 255, (1500, 1500, 3), dtype=np.uint8))
        image.save(folder / f"{index}.bmp")
        (folder / f"{index}.txt").write_text(f"photo {index}")
    return folder


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_interrupt_while_modules_are_imported(seconds):
    interrupt("bench.py", ["--config=configs/emoji32.py", "--strategy=cpu"], after(seconds))


@pytest.mark.parametrize(
    ("number", "entire_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)],
)
def test_interrupt_of_a_preparation_ends_its_workers(tmp_path, photos, number, entire_group):
    output = tmp_path / "data"
    flags = [f"--source=folder:{photos}", f"--output={output}", "--workers=2", "--num_streams=1"]
    started = []

    def is_time():
        if not started and output.exists() and any(output.rglob("*")):
            started.append(after(1))  # while TensorFlow is imported for the workers
        return started and started[0]()

    interrupt("prepare_data.py", flags, is_time, number, entire_group)


@pytest.mark.slow
@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("script", ["sample", "bench", "prepare_data", "doctor", "preflight"])
def test_interrupt_at_any_moment(
    tmp_path, trained, photos, squares, config_file, script, is_loaded
):
    from tests import tiny

    config = [f"--config={config_file}", *tiny.make_flags(squares)]
    flags = {
        "sample": [f"--workdir={trained('embedding')}", "--prompt=x", "--num_images=100000"],
        "bench": config,
        "prepare_data": [f"--source=folder:{photos}", "--workers=2", "--num_streams=1"],
        "doctor": [*config, f"--workdir={tmp_path / 'run'}"],
        "preflight": [*config, "--tpu=v2-8", "--nocompile"],
    }[script]
    if script in ("sample", "prepare_data"):
        flags.append(f"--output={tmp_path / 'output'}")
    busy = [subprocess.Popen([sys.executable, "-c", "while 1: 1"]) for _ in range(2 * is_loaded)]
    try:
        for seconds in (0.2, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4):
            interrupt(f"{script}.py", flags, after(seconds))
    finally:
        for process in busy:
            process.kill()
