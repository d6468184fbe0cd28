"""Runs killed with SIGKILL at random times, many while a checkpoint is written, and resumed.

On disk and on gs://, the last checkpoint equals that of an uninterrupted run bit for bit.
"""

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

EMOJI = ROOT / "t2i_tpu" / "embedded" / "emoji"

# Changes to emoji32. The model is so small that a run takes seconds, and every step is saved.
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
    """A place on disk or on gs:// that holds runs by their names.

    Attributes:
      start: starts or resumes a run.
      list_files: returns the names of the files in a run's checkpoints/.
      fetch: returns a run's workdir on disk.
      write_seconds: about how long the write of a checkpoint takes.
      run_seconds: the longest time from a new checkpoint to a kill.
    """

    start: Callable[[str], RunningScript]
    list_files: Callable[[str], list[str]]
    fetch: Callable[[str], pathlib.Path]
    write_seconds: float
    run_seconds: float = 1.5

    def list_finished_steps(self, name) -> set[int]:
        """Return the steps of the checkpoints with an info file."""
        matches = (re.fullmatch(r"step-(\d+)\.json", file) for file in self.list_files(name))
        return {int(match[1]) for match in matches if match}

    def find_newest_step(self, name) -> int:
        return max(self.list_finished_steps(name), default=0)

    def list_unfinished_steps(self, name) -> set[int]:
        """Return the steps of the checkpoints without an info file."""
        matches = (re.match(r"step-(\d+)", file) for file in self.list_files(name))
        return {int(match[1]) for match in matches if match} - self.list_finished_steps(name)


@dataclasses.dataclass
class Kills:
    """Counts of the kills of runs.

    Attributes:
      starting: kills before the first new checkpoint.
      running: kills after it.
      writing: those of `running` that came while a checkpoint was being written.
    """

    starting: int = 0
    running: int = 0
    writing: int = 0


@pytest.fixture
def train(launch):
    """`train(workdir, steps)` starts or resumes a run."""

    def start_training(workdir, steps, source="embedded:emoji", inside=None, engine="tensorflow"):
        flags = [f"--config={ROOT / 'configs' / 'emoji32.py'}", f"--workdir={workdir}"]
        flags.append(f"--engine={engine}")
        values = FLAGS | {"train.total_steps": steps, "data.source": source}
        flags += [f"--config.{name}={value}" for name, value in values.items()]
        return launch("train.py", flags, inside=inside)

    return start_training


@pytest.fixture
def train_uninterrupted(train, tmp_path):
    """`train_uninterrupted(steps)` returns the values of a run's last checkpoint by name."""

    def train_to_the_end(steps, engine="tensorflow"):
        workdir = tmp_path / "uninterrupted"
        result = train(workdir, steps, engine=engine).wait()
        assert result.code == 0, result.stderr
        values = tiny.read_checkpoint(workdir)
        assert values["step"] == steps
        return values

    return train_to_the_end


@pytest.fixture
def make_disk(train, tmp_path):
    """`make_disk(steps, engine, run_seconds)` returns a place for runs on disk."""

    def list_files(name):
        return [path.name for path in (tmp_path / name / "checkpoints").glob("*")]

    def fetch(name):
        return tmp_path / name

    def make_place(steps, engine="tensorflow", run_seconds=1.5):
        def start(name):
            return train(tmp_path / name, steps, engine=engine)

        return Place(start, list_files, fetch, 0.01, run_seconds)

    return make_place


@pytest.fixture
def cloud(train, tmp_path, gcs, bucket):
    """A place on gs:// for runs of 6 steps and their data. A tenth of the requests fail."""
    data = gcs.put_folder(EMOJI, f"{bucket}/data")

    def start(name):
        return train(f"{bucket}/{name}", 6, f"shards:{data}", gcs.inside)

    def list_files(name):
        return gcs.names(f"{bucket}/{name}/checkpoints")

    def fetch(name):
        return gcs.get_folder(f"{bucket}/{name}", tmp_path / name)

    with gcs.inject_faults(Faults(0.1)):
        yield Place(start, list_files, fetch, write_seconds=1.0)


def start_and_kill(place, name, rng, kills):
    """Start a run, kill it at a random time and count the kill in `kills`.

    Some runs are killed while they start, and most while they train and save. About half of the
    latter are killed soon after files of an unfinished checkpoint appear.
    """
    before, running = place.find_newest_step(name), place.start(name)

    def wait_for(condition):
        while running.process.is_alive() and not condition():
            time.sleep(0.001)

    # Wait for a random time.
    kind = rng.random()
    if kind < 0.15:
        time.sleep(rng.uniform(0, 4))
    else:
        wait_for(lambda: place.find_newest_step(name) != before)
        time.sleep(rng.uniform(0, place.run_seconds))
    if kind > 0.6:
        wait_for(lambda: place.list_unfinished_steps(name))
        time.sleep(rng.uniform(0, place.write_seconds))
    # Kill the run.
    has_ended = not running.process.is_alive()
    running.process.kill()
    running.process.join()
    # Count the kill.
    if has_ended:
        return
    if place.find_newest_step(name) == before:
        kills.starting += 1
        return
    kills.running += 1
    if place.list_unfinished_steps(name):
        kills.writing += 1


def check_killed_run(place, name, rng, kills, expected, count=None):
    """Kill a run `count` times, by default once or twice, resume it, and compare its last checkpoint."""
    for _ in range(count or rng.integers(1, 3)):
        start_and_kill(place, name, rng, kills)
    last = place.start(name).wait(900)
    assert last.code == 0, last.stderr
    assert not place.list_unfinished_steps(name)
    values = tiny.read_checkpoint(place.fetch(name))
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(values[key], value, err_msg=f"{name}: {key}")


def check_killed_runs(place, count, expected) -> Kills:
    rng, kills = np.random.default_rng(0), Kills()
    for number in range(count):
        check_killed_run(place, f"run{number}", rng, kills, expected)
        print(f"{number + 1} runs, {kills}", flush=True)
    return kills


def test_killed_run_is_resumed_bit_exactly(make_disk, train_uninterrupted):
    kills = Kills()
    expected = train_uninterrupted(40)
    check_killed_run(make_disk(40), "killed", np.random.default_rng(4), kills, expected)
    assert kills.starting + kills.running > 0


def test_run_on_jax_is_killed_ten_times_and_resumed_bit_exactly(make_disk, train_uninterrupted):
    kills, place = Kills(), make_disk(200, "jax", run_seconds=0.3)
    expected = train_uninterrupted(200, "jax")
    check_killed_run(place, "killed", np.random.default_rng(4), kills, expected, count=10)
    print(kills)
    assert kills.starting + kills.running == 10


@pytest.mark.slow
def test_hundred_killed_runs(make_disk, train_uninterrupted):
    kills = check_killed_runs(make_disk(40), 100, train_uninterrupted(40))
    assert kills.writing >= 10 and kills.starting >= 10 and kills.running >= 50


@pytest.mark.slow
def test_fifty_killed_runs_on_jax(make_disk, train_uninterrupted):
    kills = check_killed_runs(make_disk(100, "jax"), 50, train_uninterrupted(100, "jax"))
    assert kills.writing >= 5 and kills.starting >= 5 and kills.running >= 25


@pytest.mark.slow
def test_thirty_killed_runs_on_gs(cloud, train_uninterrupted, gcs):
    kills = check_killed_runs(cloud, 30, train_uninterrupted(6))
    assert kills.writing >= 5 and kills.starting >= 3 and kills.running >= 15
    report = gcs.report()
    failed, total = sum(report["faults"].values()), len(report["requests"])
    print(f"{failed} of {total} requests failed: {report['faults']}")
    assert 0.08 < failed / total < 0.12
