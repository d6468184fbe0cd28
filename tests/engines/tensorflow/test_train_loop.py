"""Tests TensorFlow's train loop: the metrics, tracing, and the report that it waits for input."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.engines.tensorflow.train_loop import make_device_loop
from t2i_tpu.step.metrics import BAND_NAMES, NUM_BANDS
from t2i_tpu.step.objective import corrupt_batch
from t2i_tpu.step.state import read_scalar
from tests import tiny


@pytest.fixture(scope="module")
def counted_run(squares):
    """A run on two devices that counts how often Python runs its replica step."""
    target = dict(diffusion__prediction_type="velocity", diffusion__loss_weight="uniform")
    run, calls = tiny.Run(tiny.make_config(squares, **target), ["CPU:0", "CPU:1"]), []
    loop = run.trainer.loop

    def replica_step(batch):
        calls.append(sorted(batch))
        return loop.replica_step(batch)

    waiting = tf.Variable(False, trainable=False)
    loop.function = make_device_loop(run.engine.strategy, replica_step, waiting)
    run.calls = calls
    return run


def test_metrics_of_the_first_step_match_the_formula(counted_run):
    """The network starts as zero, so its first loss is the mean square of the target x - z."""
    run = counted_run
    assert read_scalar(run.state.step) == 0
    (batch,) = run.dataset.batches(0, 8, 8).take(1)
    first = corrupt_batch(run.config, run.state.denoiser.diffusion_path, batch, tf.constant(0))
    del first["condition"]
    first = {name: value.numpy().astype(np.float64) for name, value in first.items()}
    loss = np.square(first["noise"] - first["image"]).mean(axis=(1, 2, 3))
    band = np.minimum((first["noise_level"] * NUM_BANDS).astype(int), NUM_BANDS - 1)
    metrics = run.steps(1)
    sums, counts = np.bincount(band, loss, NUM_BANDS), np.bincount(band, minlength=NUM_BANDS)
    for index, name in enumerate(BAND_NAMES):
        np.testing.assert_allclose(metrics[f"loss/{name}"], sums[index], rtol=1e-5)
        assert metrics[f"examples/{name}"] == counts[index]
    assert metrics["gradient_norm"] > 0 and metrics["skipped_steps"] == 0
    assert metrics["steps"] == 1  # only the first replica contributes


def test_the_loop_is_traced_once_for_all_its_lengths(counted_run):
    run = counted_run
    run.steps(1)
    assert len(run.calls) == 2  # one trace, which runs each of the two replicas once
    step = read_scalar(run.state.step)
    for length in (3, 1, 2):
        assert run.steps(length)["steps"] == length
    assert read_scalar(run.state.step) == step + 6
    assert len(run.calls) == 2
    assert run.trainer.loop.function.experimental_get_tracing_count() == 1


def test_replicas_hold_the_same_bits(counted_run):
    run = counted_run
    run.steps(2)
    for variable in run.state.list_variables():
        copies = run.engine.strategy.experimental_local_results(variable.value)
        first, second = (copy.numpy() for copy in copies)
        np.testing.assert_array_equal(first, second)


def test_device_loop_shows_that_it_waits_for_input(squares):
    """The input yields two batches, and the others only after the gate has been opened."""
    run, gate = tiny.Run(tiny.make_config(squares)), threading.Event()
    loop, step = run.trainer.loop, run.state.step

    def wait_for_gate(index):
        if index >= 2:
            gate.wait(200)
        return index

    def delay(index, batch):
        index = tf.py_function(wait_for_gate, [index], tf.int64)
        with tf.control_dependencies([index]):
            return tf.nest.map_structure(tf.identity, batch)

    def read_batches(*_):
        return run.dataset.batches(0, 8, 8).enumerate().map(delay)

    iterator = run.engine.make_iterator(run.config, read_batches)
    training = threading.Thread(target=lambda: loop.run(iterator, 4), daemon=True)
    training.start()
    # Wait until the loop has been waiting for input for two seconds.
    end, since = time.monotonic() + 200, time.monotonic()
    while time.monotonic() < min(end, since + 2):
        time.sleep(0.05)
        if not loop.waiting:
            since = time.monotonic()
    assert training.is_alive() and loop.waiting and 0 < read_scalar(step) < 4
    gate.set()
    training.join(200)
    assert not loop.waiting and read_scalar(step) == 4
