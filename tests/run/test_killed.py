"""Runs killed with -9 at random moments, many in a checkpoint's write, and started again until done,
on disk and on gs://: their last checkpoint equals the undisturbed run's bit for bit."""

import dataclasses
import pathlib
import re
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests import tiny
from tests.gcs.harness import Faults
from tests.launch.launcher import ROOT, RunningScript

EMOJI = ROOT / "t2i_tpu" / "data" / "embedded" / "emoji"

# emoji32 on a model so small that a run is over in seconds; a checkpoint after every step.
FLAGS = {
    "data.image_size": 8,
    "model.widths": (16,),
    "model.attention_levels": (False,),
    "model.block_depth": 1,
    "model.embedding_dim": 32,
    "train.global_batch_size": 16,
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
class Place:
    """Where runs are written, each under its name."""

    start: Callable[[str], RunningScript]  # a run from its beginning or its newest checkpoint
    names: Callable[[str], list[str]]  # of the files in its checkpoints/
    fetched: Callable[[str], pathlib.Path]  # its workdir, on disk
    write_seconds: float  # about what a checkpoint takes

    def finished(self, name) -> set[int]:
        """The steps of checkpoints with a manifest."""
        found = (re.fullmatch(r"step-(\d+)\.json", file) for file in self.names(name))
        return {int(match[1]) for match in found if match}

    def newest(self, name) -> int:
        return max(self.finished(name), default=0)

    def unfinished(self, name) -> set[int]:
        """The steps of checkpoints without one."""
        found = (re.match(r"step-(\d+)", file) for file in self.names(name))
        return {int(match[1]) for match in found if match} - self.finished(name)


@dataclasses.dataclass
class Kills:
    """What the kills of some runs met."""

    starting: int = 0  # before the first step
    running: int = 0
    writing: int = 0  # of these: a checkpoint was cut short


@pytest.fixture
def train(launch):
    """`train(workdir, steps)`: launch/train.py under way."""

    def train(workdir, steps, source="embedded:emoji", inside=None):
        flags = [f"--config={ROOT / 'configs' / 'emoji32.py'}", f"--workdir={workdir}"]
        values = FLAGS | {"train.total_steps": steps, "data.source": source}
        flags += [f"--config.{name}={value}" for name, value in values.items()]
        return launch("train.py", flags, inside=inside)

    return train


@pytest.fixture
def undisturbed(train, tmp_path):
    """`undisturbed(steps)`: the last checkpoint of a run on disk, by name."""

    def undisturbed(steps):
        result = train(tmp_path / "undisturbed", steps).wait()
        assert result.code == 0, result.stderr
        values = tiny.checkpoint_values(tmp_path / "undisturbed")
        assert values["step"] == steps
        return values

    return undisturbed


@pytest.fixture
def disk(train, tmp_path):
    """Runs of 40 steps."""

    def names(name):
        return [path.name for path in (tmp_path / name / "checkpoints").glob("*")]

    return Place(lambda name: train(tmp_path / name, 40), names, lambda name: tmp_path / name, 0.01)


@pytest.fixture
def cloud(train, tmp_path, gcs, bucket):
    """Runs of 6 steps on gs://, and their data, with a tenth of the requests failing."""
    data = gcs.put_folder(EMOJI, f"{bucket}/data")

    def start(name):
        return train(f"{bucket}/{name}", 6, f"shards:{data}", gcs.inside)

    def fetched(name):
        return gcs.get_folder(f"{bucket}/{name}", tmp_path / name)

    with gcs.faults(Faults(0.1)):
        yield Place(start, lambda name: gcs.names(f"{bucket}/{name}/checkpoints"), fetched, 1.0)


def kill(place, name, rng, kills):
    """Starts a run and kills it: now and then while it starts, mostly while it trains and saves, and
    half of those soon after files of a checkpoint are seen that has no manifest yet."""
    before, running = place.newest(name), place.start(name)

    def wait_for(condition):
        while running.process.is_alive() and not condition():
            time.sleep(0.001)

    kind = rng.random()
    if kind < 0.15:
        time.sleep(rng.uniform(0, 4))
    else:
        wait_for(lambda: place.newest(name) != before)
        time.sleep(rng.uniform(0, 1.5))
    if kind > 0.6:
        wait_for(lambda: place.unfinished(name))
        time.sleep(rng.uniform(0, place.write_seconds))
    finished = not running.process.is_alive()
    running.process.kill()
    running.process.join()
    if finished:
        return
    if place.newest(name) == before:
        kills.starting += 1
    else:
        kills.running += 1
        kills.writing += bool(place.unfinished(name))


def run_killed(place, name, rng, kills, expected):
    """A run that is killed once or twice and then left alone, and what it must end with."""
    for _ in range(rng.integers(1, 3)):
        kill(place, name, rng, kills)
    last = place.start(name).wait(900)
    assert last.code == 0, last.stderr
    assert not place.unfinished(name)
    found = tiny.checkpoint_values(place.fetched(name))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=f"{name}: {key}")


def runs_killed(place, count, expected) -> Kills:
    rng, kills = np.random.default_rng(0), Kills()
    for number in range(count):
        run_killed(place, f"run{number}", rng, kills, expected)
        print(f"{number + 1} runs, {kills}", flush=True)
    return kills


def test_a_run_killed_again_and_again(disk, undisturbed):
    kills = Kills()
    run_killed(disk, "killed", np.random.default_rng(4), kills, undisturbed(40))
    assert kills.starting + kills.running > 0


@pytest.mark.slow
def test_a_hundred_runs_killed_again_and_again(disk, undisturbed):
    kills = runs_killed(disk, 100, undisturbed(40))
    assert kills.writing >= 10 and kills.starting >= 10 and kills.running >= 50


@pytest.mark.slow
def test_thirty_runs_killed_on_gs(cloud, undisturbed, gcs):
    kills = runs_killed(cloud, 30, undisturbed(6))
    assert kills.writing >= 5 and kills.starting >= 3 and kills.running >= 15
    report = gcs.report()
    failed, asked = sum(report["faults"].values()), len(report["requests"])
    print(f"{failed} of {asked} requests failed: {report['faults']}")
    assert 0.08 < failed / asked < 0.12
