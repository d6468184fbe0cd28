"""Tests that one device, two devices and two machines compute the same, up to rounding errors."""

import hashlib
import json
import os
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.step.objective import corrupt_batch
from tests import tiny
from tests.launch import launcher

TOLERANCE = 1e-5
CHANGES = dict(model__widths=(16, 32), model__attention_levels=(False, True))


@pytest.fixture(scope="module")
def alone(squares):
    """The values of a run on one device before its first step and after 20 steps."""
    run = tiny.Run(tiny.make_config(squares, **CHANGES))
    start = run.values()
    run.steps(20)
    return start, run.values()


def assert_same(values, alone):
    start, end = alone
    assert values.keys() == end.keys()
    for name, value in end.items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
    # The tolerance is meaningful, because the weights have moved more than a hundred times as far.
    moved = [np.abs(end[name] - start[name]).max() for name in end if name.startswith("weights/")]
    assert np.median(moved) > 100 * TOLERANCE


def test_two_devices_agree_with_one(squares, alone):
    run = tiny.Run(tiny.make_config(squares, **CHANGES), ["CPU:0", "CPU:1"])
    run.steps(20)
    assert_same(run.values(), alone)


def test_two_machines_agree_with_one_device(squares, alone, tmp_path, launch):
    """Two processes run launch/train.py; only the first one writes."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    workdir = tmp_path / "workdir"
    flags = [f"--config={config}", f"--workdir={workdir}", "--strategy=multiworker"]
    flags += tiny.make_flags(squares, **CHANGES)
    workers = []
    for task in launcher.make_tasks(2):
        workers.append(launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}))
    for worker in workers:
        result = worker.wait()
        assert result.code == 0, result.stderr
    values = tiny.read_checkpoint(workdir)
    assert_same(values, alone)
    assert "2 replica(s)" in result.stderr
    # Only the first process wrote: there are one file of events and one picture.
    assert len(list((workdir / "logs").iterdir())) == 1
    assert [path.name for path in (workdir / "previews").iterdir()] == ["step_00000020.png"]


def test_a_checkpoint_of_two_devices_resumes_on_one(squares, tmp_path):
    """The run does ten steps on two devices and ten more on one."""
    config = tiny.make_config(squares)
    two = tiny.Run(config, ["CPU:0", "CPU:1"])
    two.steps(10)
    checkpointer = two.make_checkpointer(tmp_path)
    checkpointer.save()
    checkpointer.finish()
    two.steps(10)
    one = tiny.Run(config)
    start = one.make_checkpointer(tmp_path).restore()
    assert start == 10
    one.iterator = one.batches(start)
    one.steps(10)
    values, expected = one.values(), two.values()
    for name in expected:
        np.testing.assert_allclose(values[name], expected[name], rtol=0, atol=TOLERANCE)


def iter_examples(config, engine, start, count):
    """Yield the corrupted examples of each step from `start` on, with their slots.

    They are those of this process's replicas.
    """
    dataset = open_dataset(
        config.data.source.removeprefix("shards:"),
        config.model.conditioning,
        config.data.image_size,
    )
    size = config.train.global_batch_size
    share = engine.get_read_batch_size(size)

    def read_batches(host, num_hosts):
        return dataset.batches(config.seed, size, share, start, host, num_hosts)

    iterator, strategy = engine.make_iterator(config, read_batches), engine.strategy
    for step in range(start, start + count):
        step = tf.constant(step, tf.int64)

        def corrupt_on_replica(batch, step=step):
            examples = corrupt_batch(config, PATHS[config.diffusion.path], batch, step)
            return examples | examples.pop("condition") | {"slot": batch["slot"]}

        examples = strategy.run(corrupt_on_replica, (next(iterator),))
        yield {
            name: np.concatenate(
                [copy.numpy() for copy in strategy.experimental_local_results(value)]
            )
            for name, value in examples.items()
        }


def hash_examples(parts):
    """Return a hash of the examples that all processes saw in one step, ordered by slot."""
    order, digest = np.argsort(np.concatenate([part["slot"] for part in parts])), hashlib.sha256()
    for name in sorted(parts[0]):
        digest.update(np.concatenate([part[name] for part in parts])[order].tobytes())
    return digest.hexdigest()


def hash_steps(config, engine, start, count):
    return [hash_examples([part]) for part in iter_examples(config, engine, start, count)]


def save_examples_as_worker(task, config, start, count, path):
    os.environ["TF_CONFIG"] = json.dumps(task)
    with open(path, "wb") as file:
        pickle.dump(list(iter_examples(config, make_engine("multiworker"), start, count)), file)


def hash_steps_of_two_workers(config, start, count, folder):
    paths = [folder / f"seen-{start}-{index}" for index in range(2)]
    workers = [
        launcher.start_process(save_examples_as_worker, (task, config, start, count, path))
        for task, path in zip(launcher.make_tasks(2), paths, strict=True)
    ]
    for worker in workers:
        worker.join(200)
        assert worker.exitcode == 0
    first, second = (pickle.loads(path.read_bytes()) for path in paths)
    for ours, theirs in zip(first, second, strict=True):
        assert len(ours["slot"]) == len(theirs["slot"])
        assert not {*ours["slot"]} & {*theirs["slot"]}
    return [hash_examples(parts) for parts in zip(first, second, strict=True)]


def test_two_machines_see_the_same_examples_as_one(squares, tmp_path):
    config = tiny.make_config(squares)
    assert hash_steps_of_two_workers(config, 7, 5, tmp_path) == hash_steps(
        config, tiny.make_engine(), 7, 5
    )


@pytest.mark.slow
def test_a_run_may_change_its_devices(squares, tmp_path, launch):
    """A run of 100 steps changes between 1, 2 and 4 devices and 2 workers at random steps.

    Every step sees the same bytes as on one device, and the final weights agree to a relative 1e-4.
    """
    changes = CHANGES | dict(train__total_steps=100, train__steps_per_loop=1, train__log_every=1)
    config, workdir = tiny.make_config(squares, **changes), tmp_path / "workdir"
    undisturbed = tiny.Run(config)
    undisturbed.steps(100)
    expected = hash_steps(config, undisturbed.engine, 0, 100)
    assert len(set(expected)) == 100

    runs = [tiny.Run(config, [f"CPU:{index}" for index in range(count)]) for count in (1, 2, 4)]
    rng, step, turns = np.random.default_rng(0), 0, []
    while step < 100:
        if len(turns) == 2:
            begin, step = step, resume_with_two_workers(workdir, tmp_path, squares, changes, launch)
            hashes = hash_steps_of_two_workers(config, begin, step - begin, tmp_path)
            assert hashes == expected[begin:step]
            turns.append(("workers", step))
        run = runs[len(turns) % 3]
        checkpointer = run.make_checkpointer(workdir)
        assert checkpointer.restore() == step
        count = min(int(rng.integers(5, 20)), 100 - step)
        assert hash_steps(config, run.engine, step, count) == expected[step : step + count]
        run.iterator = run.batches(step)
        run.steps(count)
        step += count
        checkpointer.save()
        checkpointer.finish()
        turns.append((run.engine.num_replicas, step))
    assert {turn[0] for turn in turns} == {1, 2, 4, "workers"}
    values = tiny.read_checkpoint(workdir)
    worst = 0.0
    for name, value in undisturbed.values().items():
        if name.startswith("weights/"):
            difference = np.abs(values[name] - value).max() / np.abs(value).max()
            worst = max(worst, difference)
    print(f"{turns}: largest relative difference of a weight {worst:.1e}")
    assert worst < 1e-4


def resume_with_two_workers(workdir, tmp_path, squares, changes, launch):
    """Resume with two processes for some steps; return the step at which they stopped."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={workdir}", "--strategy=multiworker"]
    flags += tiny.make_flags(squares, **changes)
    workers = [
        launch("train.py", flags, {"TF_CONFIG": json.dumps(task)})
        for task in launcher.make_tasks(2)
    ]
    workers[0].wait_for(lambda: re.search(r"step \d+/100: ", workers[0].stderr_so_far()))
    workers[1].process.terminate()
    results = [worker.wait() for worker in workers]
    assert [result.code for result in results] == [75, 75], results
    return int(re.search(r"stopped at step (\d+)", results[0].stderr)[1])
