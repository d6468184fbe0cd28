"""Runs killed with -9 at random moments, many in a checkpoint's write, and started again until done:
their last checkpoint equals the undisturbed run's bit for bit."""

import dataclasses
import re
import time

import numpy as np
import pytest

from t2i_tpu.train import versions
from tests.launch.launcher import ROOT
from tests.train import tiny

# emoji32 on a model so small that a run is over in seconds; a checkpoint after every step.
FLAGS = {
    "data.image_size": 8,
    "model.widths": (16,),
    "model.attention_levels": (False,),
    "model.block_depth": 1,
    "model.embedding_dim": 32,
    "train.global_batch_size": 16,
    "train.total_steps": 40,
    "train.steps_per_loop": 1,
    "train.log_every": 10,
    "train.preview_every": 40,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 2,
    "train.warmup_steps": 4,
    "train.dtype_policy": "float32",
    "train.ema_stds": (0.1,),
    "sample.steps": 2,
    "preview.captions": (),
    "preview.num_train": 1,
    "preview.num_heldout": 0,
}


@dataclasses.dataclass
class Kills:
    """What the kills of some runs met."""

    starting: int = 0  # before the first step
    running: int = 0
    writing: int = 0  # of these: a checkpoint was cut short


@pytest.fixture
def start(tmp_path, launch):
    """`start(name)`: the run in tmp_path/name, from its beginning or its newest checkpoint."""
    flags = [f"--config={ROOT / 'configs' / 'emoji32.py'}"]
    flags += [f"--config.{name}={value}" for name, value in FLAGS.items()]
    return lambda name: launch("train.py", [*flags, f"--workdir={tmp_path / name}"])


def unfinished(workdir):
    """The steps of checkpoints without a manifest."""
    names = [path.name for path in (workdir / "checkpoints").glob("step-*")]
    found = {int(re.match(r"step-(\d+)", name)[1]) for name in names}
    return found - set(versions.steps(str(workdir)))


def kill(running, workdir, rng, kills):
    """Kills a run under way: now and then while it starts, mostly while it trains and saves, and
    half of those soon after files of a checkpoint are seen that has no manifest yet."""
    before = versions.steps(str(workdir))[:1]
    kind = rng.random()
    if kind < 0.15:
        time.sleep(rng.uniform(0, 4))
    else:
        running.wait_for(lambda: versions.steps(str(workdir))[:1] != before)
        time.sleep(rng.uniform(0, 1.5))
    if kind > 0.6:
        while running.process.is_alive() and not unfinished(workdir):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
    finished = not running.process.is_alive()
    running.process.kill()
    running.process.join()
    if finished:
        return
    if versions.steps(str(workdir))[:1] == before:
        kills.starting += 1
    else:
        kills.running += 1
        kills.writing += bool(unfinished(workdir))


def run_killed(start, tmp_path, name, rng, kills):
    """A run that is killed once or twice and then left alone."""
    for _ in range(rng.integers(1, 3)):
        kill(start(name), tmp_path / name, rng, kills)
    last = start(name).wait()
    assert last.code == 0, last.stderr
    assert not unfinished(tmp_path / name)


def assert_equal(tmp_path, name):
    expected, found = (tiny.checkpoint_values(tmp_path / run) for run in ("undisturbed", name))
    assert expected["step"] == FLAGS["train.total_steps"] and expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=f"{name}: {key}")


def undisturbed(start):
    result = start("undisturbed").wait()
    assert result.code == 0, result.stderr


def test_a_run_killed_again_and_again(start, tmp_path):
    undisturbed(start)
    kills = Kills()
    run_killed(start, tmp_path, "killed", np.random.default_rng(4), kills)
    assert kills.starting + kills.running > 0
    assert_equal(tmp_path, "killed")


@pytest.mark.slow
def test_a_hundred_runs_killed_again_and_again(start, tmp_path):
    undisturbed(start)
    rng, kills = np.random.default_rng(0), Kills()
    for number in range(100):
        run_killed(start, tmp_path, f"run{number}", rng, kills)
        assert_equal(tmp_path, f"run{number}")
        print(f"{number + 1} runs, {kills}", flush=True)
    assert kills.writing >= 10 and kills.starting >= 10 and kills.running >= 50
