"""Tests that a script ends with its exit code and complete output, but without destructors."""

import os
import subprocess
import sys

import pytest

from tests.launch.launcher import ROOT

SCRIPT = """
import atexit, sys, time
from t2i_tpu import installed
from t2i_tpu.process import fast_exit

installed.is_tpu_build = lambda: False  # with that build, destructors run

class Slow:
    def __del__(self):
        time.sleep(60)

slow = Slow()
with fast_exit.skip_destruction():
    atexit.register(print, "handler")
    print("output")
    {ending}
"""


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(75)", 75)]
)
def test_destructors_are_skipped_at_the_end(ending, code):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending=ending)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "output\nhandler\n", "")


def test_errors_are_reported():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending="slow = None; 1 / 0").replace("60", "0")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 1 and "ZeroDivisionError" in result.stderr


def test_multiprocessing_removes_its_folder(tmp_path):
    lines = ("from t2i_tpu.process import interruptible", "import multiprocessing.util", SCRIPT)
    script = "\n".join(lines).format(ending="multiprocessing.util.get_temp_dir(); sys.exit()")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, timeout=50
    )
    assert list(tmp_path.iterdir()) == []


def test_stdout_may_be_closed():
    command = [sys.executable, "-c", SCRIPT.format(ending="sys.exit(75)")]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (result.returncode, result.stderr) == (75, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_stdout(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "launch/runs.py", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")
