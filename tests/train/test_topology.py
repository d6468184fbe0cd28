"""Weights after 20 float32 steps agree to 1e-5 on one device, two devices and two machines."""

import hashlib
import json
import os
import pickle
import re
import socket

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.checkpoint_store import Retention
from t2i_tpu.run.strategy import make_strategy
from t2i_tpu.train.step import corrupt_batch
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


def loopback_tasks():
    """The TF_CONFIGs of two workers on this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]


def assert_same(found, alone):
    start, end = alone
    assert found.keys() == end.keys()
    for name, value in end.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
    # As large as the tolerance would be nothing: the weights have moved a hundred times as far.
    moved = [np.abs(end[name] - start[name]).max() for name in end if name.startswith("weights/")]
    assert np.median(moved) > 100 * TOLERANCE


def test_two_devices(squares, alone):
    run = tiny.Run(tiny.make_config(squares, **CHANGES), ["CPU:0", "CPU:1"])
    run.steps(20)
    assert_same(run.values(), alone)


def test_two_machines_on_loopback(squares, alone, tmp_path, launch):
    """Two processes run launch/train.py; only the first one writes."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    workdir = tmp_path / "workdir"
    flags = [f"--config={config}", f"--workdir={workdir}", "--strategy=multiworker"]
    flags += tiny.make_flags(squares, **CHANGES)
    running = []
    for task in loopback_tasks():
        running.append(launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}))
    for each in running:
        result = each.wait()
        assert result.code == 0, result.stderr
    found = tiny.read_checkpoint(workdir)
    assert_same(found, alone)
    assert "2 replica(s)" in result.stderr
    # Only the first wrote: one file of events, one picture, one checkpoint.
    assert len(list((workdir / "logs").iterdir())) == 1
    assert [path.name for path in (workdir / "previews").iterdir()] == ["step_00000020.png"]


def test_a_checkpoint_of_two_devices_resumes_on_one(squares, tmp_path):
    """The run does ten steps on two devices and ten more on one."""
    config = tiny.make_config(squares)
    two = tiny.Run(config, ["CPU:0", "CPU:1"])
    two.steps(10)
    checkpointer = Checkpointer(str(tmp_path), two.state.trackables(), Retention(1))
    checkpointer.save()
    checkpointer.finish()
    two.steps(10)
    one = tiny.Run(config)
    start = Checkpointer(str(tmp_path), one.state.trackables(), Retention(1)).restore()
    assert start == 10
    one.iterator = one.batches(start)
    one.steps(10)
    found, expected = one.values(), two.values()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=TOLERANCE)


def iter_examples(config, strategy, start, count):
    """Yield what the network sees in each step from `start` on, on this process's replicas.

    These are the examples with their noise, and their slots.
    """
    dataset = open_dataset(
        config.data.source.removeprefix("shards:"),
        config.model.conditioning,
        config.data.image_size,
    )
    size = config.train.global_batch_size
    share = size // strategy.num_replicas_in_sync

    def batches(context):
        host, num_hosts = context.input_pipeline_id, context.num_input_pipelines
        return dataset.batches(config.seed, size, share, start, host, num_hosts)

    iterator = iter(strategy.distribute_datasets_from_function(batches))
    for step in range(start, start + count):
        step = tf.constant(step, tf.int64)

        def see(batch, step=step):
            examples = corrupt_batch(config, PATHS[config.diffusion.path], batch, step)
            return examples | examples.pop("condition") | {"slot": batch["slot"]}

        examples = strategy.run(see, (next(iterator),))
        yield {
            name: np.concatenate(
                [one.numpy() for one in strategy.experimental_local_results(value)]
            )
            for name, value in examples.items()
        }


def hash_examples(parts):
    """Return a hash of what the processes of a run saw in one step, in the order of the slots."""
    order, digest = np.argsort(np.concatenate([part["slot"] for part in parts])), hashlib.sha256()
    for name in sorted(parts[0]):
        digest.update(np.concatenate([part[name] for part in parts])[order].tobytes())
    return digest.hexdigest()


def hash_steps(config, strategy, start, count):
    return [hash_examples([part]) for part in iter_examples(config, strategy, start, count)]


def iter_as_worker(task, config, start, count, path):
    os.environ["TF_CONFIG"] = json.dumps(task)
    with open(path, "wb") as file:
        pickle.dump(list(iter_examples(config, make_strategy("multiworker"), start, count)), file)


def seen_by_two_workers(config, start, count, folder):
    paths = [folder / f"seen-{start}-{index}" for index in range(2)]
    running = [
        launcher.start_process(iter_as_worker, (task, config, start, count, path))
        for task, path in zip(loopback_tasks(), paths, strict=True)
    ]
    for each in running:
        each.join(200)
        assert each.exitcode == 0
    first, second = (pickle.loads(path.read_bytes()) for path in paths)
    for ours, theirs in zip(first, second, strict=True):
        assert len(ours["slot"]) == len(theirs["slot"])
        assert not {*ours["slot"]} & {*theirs["slot"]}
    return [hash_examples(parts) for parts in zip(first, second, strict=True)]


def test_two_machines_see_the_same_examples_as_one(squares, tmp_path):
    config = tiny.make_config(squares)
    assert seen_by_two_workers(config, 7, 5, tmp_path) == hash_steps(
        config, tf.distribute.get_strategy(), 7, 5
    )


@pytest.mark.slow
def test_a_run_that_changes_its_devices(squares, tmp_path, launch):
    """100 steps run on 1, 2 and 4 devices and 2 workers in turn, changing at random steps.

    Every step sees the same bytes, and the final weights agree with those of one device to a
    relative 1e-4.
    """
    changes = CHANGES | dict(train__total_steps=100, train__steps_per_loop=1, train__log_every=1)
    config, workdir = tiny.make_config(squares, **changes), tmp_path / "workdir"
    undisturbed = tiny.Run(config)
    undisturbed.steps(100)
    expected = hash_steps(config, undisturbed.strategy, 0, 100)
    assert len(set(expected)) == 100

    runs = [tiny.Run(config, [f"CPU:{index}" for index in range(count)]) for count in (1, 2, 4)]
    rng, step, turns = np.random.default_rng(0), 0, []
    while step < 100:
        if len(turns) == 2:
            begin, step = step, two_workers(workdir, tmp_path, squares, changes, launch)
            found = seen_by_two_workers(config, begin, step - begin, tmp_path)
            assert found == expected[begin:step]
            turns.append(("workers", step))
        run = runs[len(turns) % 3]
        checkpointer = Checkpointer(str(workdir), run.state.trackables(), Retention(2))
        assert checkpointer.restore() == step
        count = min(int(rng.integers(5, 20)), 100 - step)
        assert hash_steps(config, run.strategy, step, count) == expected[step : step + count]
        run.iterator = run.batches(step)
        run.steps(count)
        step += count
        checkpointer.save()
        checkpointer.finish()
        turns.append((run.strategy.num_replicas_in_sync, step))
    assert {turn[0] for turn in turns} == {1, 2, 4, "workers"}
    found = tiny.read_checkpoint(workdir)
    worst = 0.0
    for name, value in undisturbed.values().items():
        if name.startswith("weights/"):
            difference = np.abs(found[name] - value).max() / np.abs(value).max()
            worst = max(worst, difference)
    print(f"{turns}: largest relative difference of a weight {worst:.1e}")
    assert worst < 1e-4


def two_workers(workdir, tmp_path, squares, changes, launch):
    """Resume with two processes for some steps; return the step at which they stopped."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={workdir}", "--strategy=multiworker"]
    flags += tiny.make_flags(squares, **changes)
    running = [
        launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}) for task in loopback_tasks()
    ]
    running[0].wait_for(lambda: re.search(r"step \d+/100: ", running[0].stderr_so_far()))
    running[1].process.terminate()
    results = [each.wait() for each in running]
    assert [result.code for result in results] == [75, 75], results
    return int(re.search(r"stopped at step (\d+)", results[0].stderr)[1])
