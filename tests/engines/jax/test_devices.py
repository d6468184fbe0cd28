"""Missing devices and missing processes of the JAX engine are reported in one line."""

import json
import os
import re

import pytest

from t2i_tpu.engines.jax import devices, processes
from t2i_tpu.errors import UserError
from tests import tiny
from tests.launch import launcher


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", r"JAX sees no GPU \(.*\); install .*jax-gpu"),
        ("tpu", r"JAX sees no TPU \(.*\); install .*jax-tpu"),
        ("multiworker", "TF_CONFIG is not set"),
        ("quantum", "one of auto"),
    ],
)
def test_missing_hardware_is_reported(name, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=f"--strategy={name}: .*{words}") as error:
        devices.find_devices(name)
    assert "\n" not in str(error.value)


def connect_alone(index, stderr):
    """Connect to another worker that is never started, and wait for a second."""
    os.dup2(os.open(stderr, os.O_CREAT | os.O_WRONLY), 2)
    os.environ["TF_CONFIG"] = json.dumps(launcher.make_tasks(2)[index])
    processes._START_SECONDS = 1
    devices.find_devices("multiworker")


@pytest.mark.parametrize("index", [0, 1])
def test_worker_that_never_starts_is_reported(tmp_path, index):
    stderr = tmp_path / "stderr"
    process = launcher.start_process(connect_alone, (index, str(stderr)), "jax")
    process.join(60)
    assert process.exitcode == 1
    (line,) = stderr.read_text().splitlines()
    assert re.search(
        r"error: the other processes .* cannot be reached \(.* 1 seconds\); check", line
    )


def test_batch_that_devices_do_not_divide_is_rejected(tmp_path, squares, launch):
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}", "--engine=jax"]
    three = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    result = launch("train.py", [*flags, *tiny.make_flags(squares)], three).wait()
    assert "global_batch_size is 8, but it must be a multiple of" in result.error
    assert not (tmp_path / "run").exists()
