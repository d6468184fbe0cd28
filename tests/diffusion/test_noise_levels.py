"""Tests the distributions of noise levels against simulations and closed forms."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS, half_normal, logit_normal, shifted, uniform

U = np.linspace(0.01, 0.99, 99)


def test_half_normal_has_the_quantiles_of_a_simulation():
    z = np.abs(np.random.default_rng(0).standard_normal(400_000))
    expected = np.quantile(z[z <= 3] / 3, U)
    np.testing.assert_allclose(half_normal(tf.constant(U, tf.float32)), expected, atol=4e-3)


def test_half_normal_inverts_the_closed_form():
    """P(level <= q) = erf(3 q / sqrt 2) / erf(3 / sqrt 2)."""
    levels = np.asarray(half_normal(tf.constant(U, tf.float32)), "float64")
    cdf = [math.erf(3 * q / math.sqrt(2)) / math.erf(3 / math.sqrt(2)) for q in levels]
    np.testing.assert_allclose(cdf, U, atol=2e-6)


def test_half_normal_has_the_mean_of_the_closed_form():
    """E |N| truncated at 3 = sqrt(2 / pi) (1 - exp(-4.5)) / erf(3 / sqrt 2)."""
    u = tf.constant((np.arange(20_000) + 0.5) / 20_000, tf.float32)
    expected = math.sqrt(2 / math.pi) * (1 - math.exp(-4.5)) / math.erf(3 / math.sqrt(2)) / 3
    assert np.mean(half_normal(u)) == pytest.approx(expected, abs=2e-5)


def test_logit_normal_is_the_sigmoid_of_normal_quantiles():
    expected = [1 / (1 + math.exp(-NormalDist().inv_cdf(u))) for u in U]
    np.testing.assert_allclose(logit_normal(tf.constant(U, tf.float32)), expected, atol=2e-6)


def test_uniform_returns_the_draws():
    assert np.asarray(uniform(tf.constant([0.25, 0.5]))).tolist() == [0.25, 0.5]


def test_shifted_follows_the_paper():
    """Esser et al., 2024, equation 23, with alpha = 3: a quarter of the levels lie beyond 0.9."""
    levels = np.asarray(shifted(tf.constant([0.25, 0.5, 0.75])))
    np.testing.assert_allclose(levels, [0.5, 0.75, 0.9], rtol=1e-6)


@pytest.mark.parametrize("name", NOISE_LEVELS)
def test_extreme_draws_stay_within_the_path(name):
    levels = np.asarray(NOISE_LEVELS[name](tf.constant([2.0**-24, 1 - 2.0**-24])))
    assert 0 <= levels[0] < 0.01
    assert 0.99 < levels[1] <= 1
