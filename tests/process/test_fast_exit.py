"""Tests that a script ends with its exit code and complete output, but without destructors."""

import subprocess
import sys

import pytest

from tests.launch.launcher import ROOT

SCRIPT = """
import atexit, sys, time
from t2i_tpu.process import fast_exit

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
