"""What a V100 gets (float16, dynamic loss scale, XLA, MirroredStrategy) on two logical devices."""

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.run import strategy
from t2i_tpu.train import optimizer, state
from t2i_tpu.train.metrics import average_metrics
from tests import tiny

pytestmark = pytest.mark.host_xla


@pytest.fixture(scope="module")
def run(squares):
    config = tiny.config(
        squares,
        train__dtype_policy="mixed_float16",
        train__jit_compile="on",
        train__total_steps=400,
        train__warmup_steps=10,
        train__learning_rate=3e-3,
    )
    one = tf.distribute.get_strategy()
    policy, xla = (
        strategy.choose_dtype_policy(config.train, one),
        strategy.should_use_xla(config.train, one),
    )
    assert (policy, xla) == ("mixed_float16", True)
    return tiny.Run(config, ["CPU:0", "CPU:1"], policy, jit_compile=xla)


def mean_loss(metrics):
    return average_metrics(metrics)["loss"]


def test_float16_trains(run):
    """In float16 where that is safe, in float32 where it must be, and the loss falls."""
    layer = run.state.denoiser.network.stem
    assert layer.compute_dtype == "float16"
    assert {weight.dtype.name for weight in run.state.weights} == {"float32"}
    assert run.state.loss_scale.numpy() == state.INITIAL_LOSS_SCALE
    first, _, last = run.steps(10), run.steps(40), run.steps(10)
    assert (
        first["skipped_steps"] <= 3 and last["skipped_steps"] == 0
    )  # the first scale may be too large: it comes down
    assert mean_loss(last) < 0.8 * mean_loss(first)
    assert np.all(np.isfinite(list(last.values())))


def test_an_overflow_halves_the_scale_and_skips_the_step(run):
    """A scale of 2**40 takes float16 gradients, at most 65504, beyond the end."""
    run.state.loss_scale.assign(2.0**40)
    before = run.values()
    metrics = run.steps(1)
    after = run.values()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {"step", "skipped_in_a_row", "loss_scale", "updates_since_scaling"}
    assert after["step"] == before["step"] + 1
    assert after["loss_scale"] == 2.0**39
    assert before["updates_since_scaling"] > 0 and after["updates_since_scaling"] == 0
    assert metrics["gradient_norm"] == 0
    assert metrics["skipped_steps"] == metrics["steps"] == 1
    assert 0 < mean_loss(metrics) < 10  # the loss itself is not scaled, so it is still told

    # It comes down by itself, within one loop, and then the weights move again.
    metrics = run.steps(30)
    assert 0 < metrics["skipped_steps"] < 30
    recovered = run.values()
    assert recovered["loss_scale"] == 2.0 ** (39 - metrics["skipped_steps"])
    assert recovered["updates"] == after["updates"] + 30 - metrics["skipped_steps"]
    moved = [f"weights/{weight.path}" for weight in run.state.denoiser.trainable_variables]
    assert all(np.any(recovered[name] != after[name]) for name in moved)
    assert all(np.all(np.isfinite(value)) for value in recovered.values())


def test_an_infinite_weight_gradient_on_one_replica_skips_both(run):
    """One image's bad condition reaches both devices through the sum."""
    run.state.loss_scale.assign(state.INITIAL_LOSS_SCALE)
    head = run.state.denoiser.network.head.kernel.value
    good = head.numpy()
    head.assign(np.full(good.shape, 1e4, np.float32))
    before = run.values()
    assert run.steps(1)["skipped_steps"] == 1
    after = run.values()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {"step", "skipped_in_a_row", "loss_scale", "updates_since_scaling"}
    for value in (*run.state.weights, run.state.loss_scale):
        one, other = (copy.numpy() for copy in run.strategy.experimental_local_results(value))
        np.testing.assert_array_equal(one, other)
    head.assign(good)


def test_the_scale_doubles_after_the_growth_interval(run):
    run.state.loss_scale.assign(1024.0)
    run.state.updates_since_scaling.assign(optimizer.LOSS_SCALE_GROWTH_INTERVAL - 2)
    found = []
    for _ in range(3):
        assert run.steps(1)["skipped_steps"] == 0
        found.append((run.state.loss_scale.numpy(), run.state.updates_since_scaling.numpy()))
    last = optimizer.LOSS_SCALE_GROWTH_INTERVAL - 1
    assert found == [(1024.0, last), (2048.0, 0), (2048.0, 1)]


def test_the_scale_stays_at_least_one(run):
    run.state.loss_scale.assign(1.5)
    head = run.state.denoiser.network.head.kernel.value
    good = head.numpy()
    head.assign(np.full(good.shape, 1e9, np.float32))  # infinite in float16
    assert run.steps(2)["skipped_steps"] == 2
    assert run.state.loss_scale.numpy() == 1.0
    head.assign(good)
