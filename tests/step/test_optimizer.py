"""Tests the update against Keras' optimizers, TensorFlow's clipping and closed forms."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.engines.tensorflow.train_loop import apply_fused_adam
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.step import optimizer
from t2i_tpu.step.state import State, read_scalar
from tests import tiny

STEPS, WARMUP, TOTAL, PEAK = 20, 5, 24, 3e-3


class Updates:
    """A training state, and a compiled function that updates it with given gradients.

    The function returns the norm of the gradients, and 1.0 if the step was skipped, or else 0.0.
    """

    def __init__(self, folder, apply_adam=optimizer.apply_adam, **changes):
        self.config = tiny.make_config(
            folder,
            train__total_steps=TOTAL,
            train__warmup_steps=WARMUP,
            train__learning_rate=PEAK,
            train__beta_2=0.98,
            **changes,
        )
        manifest, self.apply_adam = read_manifest(str(folder)), apply_adam
        spec = get_conditioning(self.config.model.conditioning).make_spec(manifest)
        denoiser = build_denoiser(self.config, manifest.channels, spec, "float32")
        self.state = State(self.config, denoiser)
        self.weights = denoiser.trainable_variables
        # The last layers start at zero, where weight decay would have no effect.
        for index, weight in enumerate(self.weights):
            noise = np.random.default_rng(index).normal(size=weight.shape)
            weight.assign(weight + 0.1 * noise)

    @tf.function
    def __call__(self, gradients):
        state, train = self.state, self.config.train
        gradients, factors = optimizer.prepare_update(state, train, gradients)
        optimizer.apply_update(state, train, gradients, {}, factors, self.apply_adam)
        return factors["norm"], 1.0 - factors["applied"]

    def make_gradients(self, step):
        rng = np.random.default_rng(1000 + step)
        scale = 10.0 ** rng.uniform(-3, 0)
        return [
            tf.constant(rng.normal(size=weight.shape) * scale, tf.float32)
            for weight in self.weights
        ]


class WarmUpThenCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up over 5 steps, times half a cosine that ends at step 24."""

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        warm = keras.ops.minimum(1.0, (step + 1.0) / 5.0)
        return 3e-3 * warm * keras.ops.cos(0.5 * math.pi * step / 24.0) ** 2  # (1 + cos x) / 2


@pytest.mark.parametrize(
    ("weight_decay", "apply_adam"), [(0.0, optimizer.apply_adam), (0.05, apply_fused_adam)]
)
def test_twenty_steps_equal_keras(squares, weight_decay, apply_adam):
    updates = Updates(
        squares,
        apply_adam,
        train__clip_norm=0.0,
        train__weight_decay=weight_decay,
        train__ema_stds=(),
    )
    twins = [keras.Variable(weight.numpy()) for weight in updates.weights]
    settings = dict(learning_rate=WarmUpThenCosine(), beta_2=0.98, epsilon=1e-8)
    if weight_decay:
        reference = keras.optimizers.AdamW(weight_decay=weight_decay, **settings)
    else:
        reference = keras.optimizers.Adam(**settings)
    reference.build(twins)
    start = [weight.numpy() for weight in updates.weights]
    for step in range(STEPS):
        norm, skipped = updates(updates.make_gradients(step))
        reference.apply(updates.make_gradients(step), twins)
        assert skipped == 0
        squared = sum(
            np.sum(np.square(g.numpy(), dtype=np.float64)) for g in updates.make_gradients(step)
        )
        np.testing.assert_allclose(norm, math.sqrt(squared), rtol=1e-5)
    for weight, twin, first in zip(updates.weights, twins, start, strict=True):
        np.testing.assert_allclose(weight.numpy(), twin.numpy(), atol=1e-6)
        assert np.abs(weight.numpy() - first).max() > 1e-3


def test_clipping_equals_tensorflows(squares):
    """After one step, the first moments are a tenth of the clipped gradients."""
    updates = Updates(squares, train__clip_norm=1.0, train__ema_stds=())
    for scale in (10.0, 1e-4):  # above and below the limit
        gradients = [gradient * scale for gradient in updates.make_gradients(3)]
        clipped, norm = tf.clip_by_global_norm(gradients, 1.0)
        moments = updates.state.first_moments.values()
        for moment in moments:
            moment.assign(tf.zeros_like(moment))
        actual_norm, _ = updates(gradients)
        np.testing.assert_allclose(actual_norm, norm, rtol=1e-5)
        for moment, gradient in zip(moments, clipped, strict=True):
            np.testing.assert_allclose(moment.numpy(), 0.1 * gradient.numpy(), rtol=2e-5, atol=1e-9)
    assert norm < 1.0


def test_averages_follow_the_power_profile_and_ignore_a_skipped_step(squares):
    """An average is the sum of all past weights, each times its share in the power profile.

    A step with a non-finite gradient changes only the step and the counter of skipped steps.
    """
    stds = (0.1, 0.2)
    updates = Updates(
        squares, train__ema_stds=stds, train__decay="constant", train__weight_decay=0.1
    )
    state, history = updates.state, []
    for step in range(12):
        if step == 7:
            before = tiny.read_state(state)
            broken = updates.make_gradients(step)
            flat = broken[5].numpy().ravel()
            flat[-1] = np.nan if step % 2 else np.inf
            broken[5] = tf.constant(flat.reshape(broken[5].shape))
            _, skipped = updates(broken)
            assert skipped == 1
            after = tiny.read_state(state)
            changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
            assert changed == {"step", "skipped_in_a_row"} and after["step"] == before["step"] + 1
            continue
        _, skipped = updates(updates.make_gradients(step))
        assert skipped == 0
        history.append([weight.numpy().astype(np.float64) for weight in updates.weights])
    assert read_scalar(state.updates) == len(history) == 11 and read_scalar(state.step) == 12
    for std, average in zip(stds, state.averages, strict=True):
        power = bisect_gamma(std) + 1
        # beta_t = (1 - 1/t)**(gamma + 1): the product of the later betas telescopes to (i/t)**power.
        times = np.arange(0, len(history) + 1) / len(history)
        shares = np.diff(times**power)
        assert abs(shares.sum() - 1) < 1e-12
        for index, weight in enumerate(updates.weights):
            copy = average[weight.path].numpy()
            expected = sum(share * past[index] for share, past in zip(shares, history, strict=True))
            np.testing.assert_allclose(copy, expected, atol=2e-6)
            assert np.abs(copy - history[-1][index]).max() > 1e-5


def compute_relative_std(gamma):
    """Return the standard deviation of the density (gamma + 1) t**gamma on [0, 1].

    Source: Karras et al., 2023, equation 123.
    """
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def bisect_gamma(std):
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if compute_relative_std(middle) > std else (low, middle)
    return low


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.279])
def test_gamma_gives_the_relative_width(std):
    assert optimizer.ema_gamma(std) == pytest.approx(bisect_gamma(std), rel=1e-6)
    assert compute_relative_std(optimizer.ema_gamma(std)) == pytest.approx(std, rel=1e-6)


def test_gamma_matches_the_paper():
    assert optimizer.ema_gamma(0.05) == pytest.approx(16.97, abs=5e-3)
    assert optimizer.ema_gamma(0.10) == pytest.approx(6.94, abs=5e-3)


def test_learning_rates_match_hand_computed_values():
    train = config_lib.resolve(config_lib.Config()).train
    train.learning_rate, train.warmup_steps, train.total_steps = 0.8, 4, 16
    train.decay = "constant"
    rates = [float(optimizer.learning_rate(train, step)) for step in (0, 1, 3, 4, 15)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.8, 0.8, 0.8], rtol=1e-6)
    train.decay = "cosine"
    rates = [float(optimizer.learning_rate(train, step)) for step in (8, 16, 99)]
    np.testing.assert_allclose(rates, [0.4, 0.0, 0.0], atol=1e-7)
    train.warmup_steps = 0
    assert float(optimizer.learning_rate(train, 0)) == pytest.approx(0.8)
