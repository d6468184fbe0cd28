"""Differences are judged by Welch's t-test."""

import math

import numpy as np
import pytest
from scipy import stats

from t2i_tpu.evaluate.compare.significance import compare_values


def compute_welch(values, reference):
    """Return the two-sided p-value of Welch's test by its textbook formula."""
    samples = values, reference
    errors = [np.var(sample, ddof=1) / len(sample) for sample in samples]
    parts = [error**2 / (len(sample) - 1) for error, sample in zip(errors, samples, strict=True)]
    distance = abs(np.mean(values) - np.mean(reference)) / math.sqrt(sum(errors))
    return 2 * stats.t.sf(distance, sum(errors) ** 2 / sum(parts))


@pytest.mark.parametrize("seed", range(5))
def test_p_value_is_that_of_welchs_formula(seed):
    rng = np.random.default_rng(seed)
    values, reference = rng.normal(0.5, 1, 3 + seed), rng.normal(0, 3, 4)
    difference = compare_values(values, reference)
    assert difference.p_value == pytest.approx(compute_welch(values, reference), rel=1e-9)
    assert difference.amount == pytest.approx(values.mean() - reference.mean())


def test_rarely_finds_a_difference_where_there_is_none():
    rng = np.random.default_rng(0)
    p_values = [compare_values(*rng.normal(size=(2, 3))).p_value for _ in range(1000)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.06


@pytest.mark.parametrize(
    ("values", "better", "word"),
    [
        ([2.0, 2.1, 1.9], "lower", "worse"),
        ([2.0, 2.1, 1.9], "higher", "better"),
        ([2.0, 2.1, 1.9], "", "higher"),
        ([0.0, 0.1, -0.1], "lower", "better"),
        ([0.0, 0.1, -0.1], "higher", "worse"),
        ([0.0, 0.1, -0.1], "", "lower"),
        ([1.0, 1.2, 0.9], "lower", "no clear difference"),
        ([2.0], "lower", "unknown: only one value"),
    ],
)
def test_difference_is_described(values, better, word):
    assert compare_values(values, [1.0, 1.1, 0.9]).describe(better).startswith(word)


def test_values_without_a_spread_can_be_compared():
    assert compare_values([1, 1, 1], [1, 1, 1]).p_value == 1
    assert compare_values([2, 2], [1, 1]).p_value == 0
    assert compare_values([1.0, 2.0], [1.5]).p_value is None
