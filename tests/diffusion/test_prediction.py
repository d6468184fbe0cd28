"""Tests targets against hand-computed values, their conversion to the image, and the loss weights."""

import math

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.losses import LOSS_WEIGHTS
from t2i_tpu.diffusion.path import PATHS, cosine, linear
from t2i_tpu.diffusion.prediction import target, to_denoised

TYPES = ("denoised", "noise", "v", "velocity")


def compute_scales(path, level):
    if path == "linear":
        return 1 - level, level
    return np.cos(level * math.pi / 2), np.sin(level * math.pi / 2)


@pytest.mark.parametrize(
    ("path", "level", "kind", "expected"),
    [
        (linear, 0.25, "denoised", 2.0),
        (linear, 0.25, "noise", 4.0),
        (linear, 0.25, "v", 0.75 * 4 - 0.25 * 2),
        (linear, 0.25, "velocity", 4.0 - 2.0),
        (cosine, 1 / 3, "denoised", 2.0),
        (cosine, 1 / 3, "noise", 4.0),
        (cosine, 1 / 3, "v", math.sqrt(3) / 2 * 4 - 0.5 * 2),
        (cosine, 1 / 3, "velocity", -0.5 * 2 + math.sqrt(3) / 2 * 4),
    ],
)
def test_target_matches_hand_computed_values(path, level, kind, expected):
    got = target(kind, path, tf.constant(2.0), tf.constant(4.0), tf.constant(level))
    assert float(got) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", PATHS)
def test_the_target_converts_back_to_the_image(name, kind):
    rng = np.random.default_rng(0)
    x0, z = rng.uniform(-1, 1, (2, 12, 4)).astype("float32")
    # At level 1, nothing is left of the image, so the noise does not determine it.
    levels = np.linspace(0, 0.9 if kind == "noise" else 1, 12)[:, None]
    signal, noise = compute_scales(name, levels)
    x_noisy = tf.constant(signal * x0 + noise * z, tf.float32)
    levels = tf.constant(levels, tf.float32)
    output = target(kind, PATHS[name], x0, z, levels)
    np.testing.assert_allclose(
        to_denoised(kind, PATHS[name], output, x_noisy, levels), x0, atol=2e-6
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("path", PATHS.values())
def test_denoised_is_finite_on_the_full_path(path, kind):
    levels = tf.linspace(0.0, 1.0, 101)
    ones = tf.ones_like(levels)
    assert np.isfinite(to_denoised(kind, path, ones, -ones, levels)).all()
    assert np.isfinite(LOSS_WEIGHTS["min_snr"](kind, path, levels)).all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", PATHS)
def test_min_snr_weights_the_error_of_the_image(name, kind):
    """weight * (error of the output)**2 = min(SNR, 5) * (error of the implied image)**2."""
    levels = np.linspace(0.05, 0.95, 19)
    signal, noise = compute_scales(name, levels)
    x_noisy, output, error = (np.full(19, value, "float32") for value in (0.7, -0.2, 0.5))
    as_tensor = tf.constant(levels, tf.float32)
    estimate = np.asarray(to_denoised(kind, PATHS[name], output, x_noisy, as_tensor), "float64")
    shifted_estimate = np.asarray(
        to_denoised(kind, PATHS[name], output + error, x_noisy, as_tensor), "float64"
    )
    weight = np.asarray(LOSS_WEIGHTS["min_snr"](kind, PATHS[name], as_tensor))
    expected = np.minimum((signal / noise) ** 2, 5) * (shifted_estimate - estimate) ** 2
    np.testing.assert_allclose(weight * error**2, expected, rtol=1e-3)


def test_min_snr_matches_hand_computed_values():
    levels = tf.constant([0.25, 0.5, 0.8])  # SNR 9, 1, 1/16 on the linear path
    np.testing.assert_allclose(
        LOSS_WEIGHTS["min_snr"]("denoised", linear, levels), [5, 1, 1 / 16], rtol=1e-5
    )
    # The weight is min(SNR, 5) / SNR for noise, and min(SNR, 5) * noise_level**2 for velocity.
    np.testing.assert_allclose(
        LOSS_WEIGHTS["min_snr"]("noise", linear, levels), [5 / 9, 1, 1], rtol=1e-5
    )
    np.testing.assert_allclose(
        LOSS_WEIGHTS["min_snr"]("velocity", linear, levels), [5 / 16, 0.25, 0.04], rtol=1e-5
    )


@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_weight_measures_the_error_of_the_velocity(name):
    levels = np.linspace(0.1, 0.95, 18)
    signal, noise = compute_scales(name, levels)
    # v = alpha' x0 + sigma' z with z = (x - alpha x0) / sigma. The slopes are computed by hand.
    slopes = (-1, 1) if name == "linear" else (-noise, signal)
    by_image = slopes[0] - slopes[1] * signal / noise
    weight = LOSS_WEIGHTS["velocity"]("denoised", PATHS[name], tf.constant(levels, tf.float32))
    np.testing.assert_allclose(weight, np.minimum(by_image**2, 100), rtol=1e-4)
    weight = LOSS_WEIGHTS["velocity"]("velocity", PATHS[name], tf.constant(levels, tf.float32))
    np.testing.assert_allclose(weight, np.where(noise > 0.1, 1, weight), rtol=1e-4)


def test_uniform_weight_is_one():
    levels = tf.constant([0.0, 0.3, 1.0])
    assert np.asarray(LOSS_WEIGHTS["uniform"]("v", cosine, levels)).tolist() == [1, 1, 1]
