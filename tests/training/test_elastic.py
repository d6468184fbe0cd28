"""Tests runs of several workers: stopping together, the death of one, and resuming with others."""

import json
import os
import re
import signal

import numpy as np
import pytest

from t2i_tpu.run import checkpoint_store
from tests import tiny
from tests.launch.launcher import make_tasks

CHANGES = dict(train__checkpoint_every=1000, train__steps_per_loop=2, train__log_every=2)


@pytest.fixture
def start_workers(squares, tmp_path, launch):
    """`start_workers(count, total_steps)` starts the processes of a run in tmp_path/run.

    `last_flags` are more flags for the last worker.
    """

    def start(count, total_steps, engine="tensorflow", last_flags=(), **changes):
        config = tmp_path / "plain.py"
        config.write_text(tiny.CONFIG_FILE)
        flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--engine={engine}"]
        flags += tiny.make_flags(squares, train__total_steps=total_steps, **CHANGES | changes)
        if count == 1:
            return [launch("train.py", flags)]
        flags.append("--strategy=multiworker")
        flags_of_workers = [flags] * (count - 1) + [[*flags, *last_flags]]
        return [
            launch("train.py", flags, {"TF_CONFIG": json.dumps(task)})
            for flags, task in zip(flags_of_workers, make_tasks(count), strict=True)
        ]

    return start


@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_signal_to_one_worker_stops_all_at_the_same_step(start_workers, tmp_path, squares, engine):
    """The second of two workers gets the signal, and a single process resumes the run."""
    total = 4000
    first, second = start_workers(2, total, engine)
    second.wait_for_line("starting at")
    first.wait_for_line("step 10/")
    second.process.terminate()
    results = [worker.wait() for worker in (first, second)]
    assert [result.code for result in results] == [75, 75], results
    (step,) = {
        int(re.search(r"stopped at step (\d+) by SIGTERM", result.stderr)[1]) for result in results
    }
    assert checkpoint_store.list_steps(str(tmp_path / "run")) == [step] and 10 <= step < total
    if engine == "tensorflow":
        # A run in this process computes the same values.
        reference = tiny.Run(tiny.make_config(squares, train__total_steps=total, **CHANGES))
        reference.steps(step)
        values = tiny.read_checkpoint(tmp_path / "run")
        for name, value in reference.values().items():
            np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-5, err_msg=name)

    (resumed,) = start_workers(1, total, engine)
    resumed.wait_for_line(f"resuming at step {step} of {total}")


@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_workers_with_different_configs_name_the_field(start_workers, tmp_path, engine):
    flags = ["--config.seed=3", "--config.train.learning_rate=0.5"]
    first, second = (worker.wait() for worker in start_workers(2, 10, engine, flags))
    for result, value, other in ((first, 0, 1), (second, 3, 0)):
        assert result.code == 1 and result.stderr.splitlines()[-1] == (
            f"train.py: error: config.seed is {value} on worker {1 - other}, but another value on "
            f"worker {other}; start the same command on all workers"
        ), result
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("SIGKILL", 25), ("SIGSTOP", 60)])
def test_worker_on_jax_that_dies_or_hangs_ends_the_others(start_workers, name, seconds):
    """If the first one dies, JAX ends the others at once, with its own message."""
    first, second = start_workers(2, 10**6, "jax")
    second.wait_for_line("starting at")
    first.wait_for_line("step 10/")
    os.kill(second.process.pid, signal.Signals[name])
    result = first.wait(seconds)
    assert result.code == 1 and result.stderr.splitlines()[-1] == (
        "train.py: error: worker 0 has lost contact with worker 1 of this run; start the same command "
        "again, on any number of workers, to resume from the newest checkpoint"
    ), result


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_a_worker_ends_the_run_and_it_can_be_resumed(start_workers, tmp_path, victim):
    workdir, survivor = str(tmp_path / "run"), 1 - victim
    workers = start_workers(2, 10**6, train__checkpoint_every=10)
    workers[0].wait_for(lambda: len(checkpoint_store.list_steps(workdir)) > 1)
    workers[victim].process.kill()
    result = workers[survivor].wait()
    assert result.code == 1, result
    error = result.stderr.splitlines()[-1]
    culprit = rf"(worker {victim}|another worker) of this run"
    assert re.match(
        f"train.py: error: worker {survivor} has lost contact with {culprit}; start the same", error
    ), error
    assert "Traceback" not in result.stderr

    # Resume with fewer workers, and with as many as before.
    newest = checkpoint_store.list_steps(workdir)[0]
    for count in (1, 2):
        workers = start_workers(count, 10**6, train__checkpoint_every=10)
        workers[0].wait_for_line(f"resuming at step {newest} of")
        for worker in workers:
            worker.wait_for_line("resuming at")
        workers[-1].process.terminate()
        assert [worker.wait().code for worker in workers] == [75] * count
        newest = checkpoint_store.list_steps(workdir)[0]
