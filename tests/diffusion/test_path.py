"""Tests the paths against hand-computed values and against finite differences."""

import math

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.path import PATHS, corrupt, cosine, linear, snr

LEVELS = np.linspace(0.0, 1.0, 11)


def test_linear_corruption_matches_hand_computed_values():
    x = tf.constant([[0.5, -1.0], [1.0, 0.0]])
    z = tf.constant([[-1.0, 2.0], [0.25, 4.0]])
    noise_level = tf.constant([[0.25], [0.8]])
    # 0.5 * 0.75 - 0.25, -0.75 + 0.5, 0.2 + 0.2, 3.2
    np.testing.assert_allclose(
        corrupt(linear, x, z, noise_level), [[0.125, -0.25], [0.4, 3.2]], rtol=1e-6
    )


def test_cosine_matches_hand_computed_values():
    scales = cosine(np.array([0.0, 1 / 3, 0.5, 1.0]))
    np.testing.assert_allclose(
        scales.signal, [1, math.sqrt(3) / 2, math.sqrt(0.5), 0], rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(scales.noise, [0, 0.5, math.sqrt(0.5), 1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("convert", [np.array, lambda ends: tf.constant(ends, tf.float32)])
def test_ends_of_the_path_are_exactly_clean_and_pure_noise(convert, path):
    scales = path(convert([0.0, 1.0]))
    assert np.asarray(scales.signal).tolist() == [1, 0]
    assert np.asarray(scales.noise).tolist() == [0, 1]


@pytest.mark.parametrize(("path", "factor"), [(linear, 1.0), (cosine, math.pi / 2)])
def test_slopes_are_the_derivatives_up_to_one_factor(path, factor):
    levels, step = LEVELS[1:-1], 1e-6
    above, below, here = path(levels + step), path(levels - step), path(levels)
    signal_slope = (above.signal - below.signal) / (2 * step)
    noise_slope = (above.noise - below.noise) / (2 * step)
    np.testing.assert_allclose(factor * here.signal_slope, signal_slope, atol=1e-8)
    np.testing.assert_allclose(factor * here.noise_slope, noise_slope, atol=1e-8)


@pytest.mark.parametrize("path", PATHS.values())
def test_tensors_and_arrays_agree(path):
    scales = path(tf.constant(LEVELS, tf.float32))
    for tensor, array in zip(scales, path(LEVELS), strict=True):
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(tensor, array, atol=1e-6)


def test_snr_matches_hand_computed_values():
    # On the linear path, it is (3 / 1)**2 at 1/4; on the cosine path, cot(30 degrees)**2 at 1/3.
    np.testing.assert_allclose(
        snr(linear, tf.constant([0.25, 0.5, 0.8])), [9, 1, 1 / 16], rtol=1e-5
    )
    np.testing.assert_allclose(snr(cosine, tf.constant([1 / 3, 0.5])), [3, 1], rtol=1e-5)


@pytest.mark.parametrize("path", PATHS.values())
def test_snr_is_finite_at_both_ends(path):
    ends = np.asarray(snr(path, tf.constant([0.0, 1.0])))
    assert np.isfinite(ends).all()
    assert ends[0] > 1e6
    assert 0 < ends[1] < 1e-6
