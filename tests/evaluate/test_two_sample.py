"""Tests the two-sample test against all permutations, and that its p-values keep their promise."""

import itertools

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate import two_sample


def draw(seed, count=60, dim=4, shift=0.0):
    points = np.random.default_rng(seed).standard_normal((count, dim)) + shift
    return points.astype(np.float32)


@pytest.mark.parametrize("hits, false_alarms", [(5, 1), (4, 2), (3, 3), (1, 4), (0, 0), (6, 0)])
def test_p_value_equals_that_of_all_permutations(hits, false_alarms):
    guesses = np.array([i < hits for i in range(6)] + [i < false_alarms for i in range(6)])
    figures = two_sample._judge(real_guesses=guesses[6:], drawn_guesses=guesses[:6])
    accuracies = []
    for drawn in itertools.combinations(range(12), 6):
        is_drawn = np.isin(np.arange(12), drawn)
        accuracies.append(np.mean(guesses == is_drawn))
    accuracy = accuracies[0]  # with the first six drawn
    assert figures["two_sample_accuracy"] == pytest.approx(accuracy)
    expected = np.mean(np.array(accuracies) >= accuracy - 1e-9)
    assert figures["two_sample_p_value"] == pytest.approx(expected)


def compute_p_values(compute, count):
    return np.array([compute(i)["two_sample_p_value"] for i in range(count)])


def assert_is_conservative(p_values):
    """Each level holds up to three standard deviations of the simulation."""
    for level in (0.05, 0.1, 0.25, 0.5):
        limit = level + 3 * np.sqrt(level * (1 - level) / len(p_values))
        assert np.mean(p_values <= level) <= limit, level


def test_p_values_are_uniform_or_larger_for_equal_distributions():
    def compute(i):
        return two_sample.compute_two_sample_test(draw((0, i)), draw((1, i), 75), seed=i)

    p_values = compute_p_values(compute, 150)
    assert_is_conservative(p_values)
    assert np.mean(p_values <= 0.25) > 0.08  # but they are not all large


def test_p_values_are_not_too_small_if_rows_belong_to_the_same_prompt():
    def compute(i):
        centers = 3 * draw((2, i))
        return two_sample.compute_two_sample_test(
            draw((0, i)) + centers, draw((1, i)) + centers, seed=i
        )

    assert_is_conservative(compute_p_values(compute, 80))


def test_different_distributions_are_distinguished():
    figures = two_sample.compute_two_sample_test(draw(0, 200), draw(1, 300, shift=1.0), seed=0)
    assert figures["two_sample_accuracy"] > 0.75
    assert figures["two_sample_p_value"] < 1e-6


def test_accuracy_of_a_known_shift_is_that_of_the_best_classifier():
    """It is Phi(d / 2) for two Gaussians whose means are at distance d."""
    figures = two_sample.compute_two_sample_test(draw(0, 5000), draw(1, 5000, shift=0.5), seed=0)
    assert figures["two_sample_accuracy"] == pytest.approx(0.6915, abs=0.02)


def test_the_scale_of_a_feature_does_not_matter():
    scales = np.array([1e-3, 1, 1, 1e3], np.float32)
    sets = draw(0), draw(1, shift=0.5)
    figures = two_sample.compute_two_sample_test(*sets, seed=0)
    scaled = two_sample.compute_two_sample_test(*(points * scales for points in sets), seed=0)
    assert scaled == figures


def test_many_images_of_one_kind_do_not_matter():
    figures = two_sample.compute_two_sample_test(draw(0, 40), draw(1, 4000), seed=0)
    assert 0.25 < figures["two_sample_accuracy"] < 0.75


def test_the_seed_decides_the_result(tmp_path):
    np.save(tmp_path / "real.npy", draw(0))
    mapped = np.load(tmp_path / "real.npy", mmap_mode="r")
    results = [two_sample.compute_two_sample_test(mapped, draw(1), seed) for seed in (0, 0, 1, 2)]
    assert results[0] == results[1]
    assert len({tuple(figures.values()) for figures in results}) > 1


def test_too_few_images_are_an_error():
    with pytest.raises(
        UserError, match="at least 20 images of each kind, but there are 60 real and 19"
    ):
        two_sample.compute_two_sample_test(draw(0), draw(1, 19), seed=0)


def test_p_values_of_several_sets_are_combined_without_becoming_too_small():
    """The sets share their real images, so the tests depend on each other."""
    assert two_sample.combine_p_values([0.3]) == 0.3
    assert two_sample.combine_p_values([0.01, 0.02, 0.06]) == pytest.approx(0.06)
    assert two_sample.combine_p_values([0.4, 0.7]) == 1

    def compute(i):
        real = draw((0, i))
        figures = [
            two_sample.compute_two_sample_test(real, draw((1 + seed, i)), seed) for seed in range(3)
        ]
        values = [each["two_sample_p_value"] for each in figures]
        return {"two_sample_p_value": two_sample.combine_p_values(values)}

    assert_is_conservative(compute_p_values(compute, 60))
