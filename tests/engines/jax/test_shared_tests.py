"""Runs tests that do not depend on the engine once more, on the JAX engine."""

import os
import subprocess
import sys

import pytest

from tests.engines.probe import FOUR_DEVICES
from tests.launch import launcher

pytest.importorskip("jax", reason="needs jax (extra dev)")

FILES = ["tests/training/test_float16.py", "tests/evaluate/test_monitor.py"]


@pytest.mark.parametrize("file", FILES)
def test_on_jax(file, tmp_path):
    """The tests run in another process, because Keras has one backend for each process."""
    environment = os.environ | launcher.ENVIRONMENTS["jax"] | FOUR_DEVICES
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # the tests run many steps
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'tests'}"],
        cwd=launcher.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout
