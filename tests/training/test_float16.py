"""Tests training with the settings of a V100: float16, a dynamic loss scale, XLA, two replicas.

tests/engines/jax/test_shared_tests.py also runs these tests on JAX.
"""

import numpy as np
import pytest

from t2i_tpu.step.optimizer import LOSS_SCALE_GROWTH_INTERVAL
from t2i_tpu.step.state import INITIAL_LOSS_SCALE, read_scalar
from t2i_tpu.training.metrics import average_metrics
from tests import tiny

pytestmark = pytest.mark.host_xla

# The only variables that a skipped step changes.
CHANGED_BY_A_SKIP = {"step", "skipped_in_a_row", "loss_scale", "updates_since_scaling"}


@pytest.fixture(scope="module")
def run(squares):
    config = tiny.make_config(
        squares,
        train__dtype_policy="mixed_float16",
        train__jit_compile="on",
        train__total_steps=400,
        train__warmup_steps=10,
        train__learning_rate=3e-3,
    )
    engine = tiny.make_engine()
    policy = engine.choose_dtype_policy(config.train)
    use_xla = engine.should_use_xla(config.train)
    assert policy == "mixed_float16" and use_xla
    return tiny.Run(config, ["CPU:0", "CPU:1"], policy, jit_compile=use_xla)


@pytest.fixture
def head(run):
    """The kernel of the network's last layer, which is restored afterwards."""
    kernel = run.state.denoiser.network.head.kernel
    good = kernel.numpy()
    yield kernel
    run.assign(kernel, good)


def compute_mean_loss(metrics):
    return average_metrics(metrics)["loss"]


def find_changed(before, after):
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def test_loss_falls_in_float16(run):
    """The layers compute in float16, and the weights are float32."""
    assert run.state.denoiser.network.stem.compute_dtype == "float16"
    assert {weight.dtype for weight in run.state.weights.values()} == {"float32"}
    assert read_scalar(run.state.loss_scale) == INITIAL_LOSS_SCALE
    first, _, last = run.steps(10), run.steps(40), run.steps(10)
    # The initial scale may be too large, in which case the first steps lower it.
    assert first["skipped_steps"] <= 3 and last["skipped_steps"] == 0
    assert compute_mean_loss(last) < 0.8 * compute_mean_loss(first)
    assert np.all(np.isfinite(list(last.values())))


def test_overflow_halves_the_scale_and_skips_the_step(run):
    """With a scale of 2**40, gradients exceed 65504, the largest float16."""
    run.assign(run.state.loss_scale, 2.0**40)
    before = run.values()
    metrics = run.steps(1)
    after = run.values()
    assert find_changed(before, after) == CHANGED_BY_A_SKIP
    assert after["step"] == before["step"] + 1
    assert after["loss_scale"] == 2.0**39
    assert before["updates_since_scaling"] > 0 and after["updates_since_scaling"] == 0
    assert metrics["gradient_norm"] == 0
    assert metrics["skipped_steps"] == metrics["steps"] == 1
    # The reported loss is not scaled.
    assert 0 < compute_mean_loss(metrics) < 10

    # The scale falls until the gradients are finite, and then the weights change again.
    metrics = run.steps(30)
    skipped = metrics["skipped_steps"]
    assert 0 < skipped < 30
    recovered = run.values()
    assert recovered["loss_scale"] == 2.0 ** (39 - skipped)
    assert recovered["updates"] == after["updates"] + 30 - skipped
    weights = {f"weights/{weight.path}" for weight in run.state.denoiser.trainable_variables}
    assert weights <= find_changed(after, recovered)
    assert all(np.all(np.isfinite(value)) for value in recovered.values())


def test_infinite_gradient_on_one_replica_skips_the_step_on_both(run, head):
    """The sum over the replicas is infinite on both of them."""
    run.assign(run.state.loss_scale, INITIAL_LOSS_SCALE)
    run.assign(head, 1e4)
    before = run.values()
    assert run.steps(1)["skipped_steps"] == 1
    assert find_changed(before, run.values()) == CHANGED_BY_A_SKIP
    for variable in (*run.state.weights.values(), run.state.loss_scale):
        first, second = run.read_copies(variable)
        np.testing.assert_array_equal(first, second)


def test_scale_doubles_after_the_growth_interval(run):
    interval, scales = LOSS_SCALE_GROWTH_INTERVAL, []
    scale, updates = run.state.loss_scale, run.state.updates_since_scaling
    run.assign(scale, 1024.0)
    run.assign(updates, interval - 2)
    for _ in range(3):
        assert run.steps(1)["skipped_steps"] == 0
        scales.append((read_scalar(scale), read_scalar(updates)))
    assert scales == [(1024.0, interval - 1), (2048.0, 0), (2048.0, 1)]


def test_scale_stays_at_least_one(run, head):
    run.assign(run.state.loss_scale, 1.5)
    run.assign(head, 1e9)  # infinite in float16
    assert run.steps(2)["skipped_steps"] == 2
    assert read_scalar(run.state.loss_scale) == 1.0
