"""Tests KID against brute force, against chance, and against known changes of the features."""

import itertools

import numpy as np
import pytest

from t2i_tpu.evaluate.distances import kid


def draw(seed, count, dim=8, shift=0.0):
    points = np.random.default_rng(seed).standard_normal((count, dim)) + shift
    return points.astype(np.float32)


def compute_slowly(real, drawn, is_paired=False):
    """Return the U-statistic by its definition, from Python floats."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def average_pairs(points):
        return np.mean([kernel(x, y) for x, y in itertools.permutations(points, 2)])

    real, drawn = real.tolist(), drawn.tolist()
    across = [
        kernel(x, y)
        for (i, x), (j, y) in itertools.product(enumerate(real), enumerate(drawn))
        if not (is_paired and i == j)
    ]
    return average_pairs(real) + average_pairs(drawn) - 2 * np.mean(across)


def compute_jackknife_variance(values):
    return (len(values) - 1) * np.var(values)


@pytest.mark.parametrize("block", [4, 9, 1024])
def test_kid_and_its_standard_error_equal_brute_force(monkeypatch, block):
    """Blocks of 4 and 9 rows do not divide the sets, of 9 and 14 points, evenly."""
    monkeypatch.setattr(kid, "_BLOCK", block)
    real, drawn = draw(0, 9, 3), draw(1, 14, 3, shift=0.5)
    values = kid.compute_kid(real, drawn)
    assert values["kid"] == pytest.approx(compute_slowly(real, drawn), rel=1e-9)
    without_real = [compute_slowly(np.delete(real, i, 0), drawn) for i in range(9)]
    without_drawn = [compute_slowly(real, np.delete(drawn, i, 0)) for i in range(14)]
    variance = sum(map(compute_jackknife_variance, (without_real, without_drawn)))
    assert values["kid_standard_error"] == pytest.approx(variance**0.5, rel=1e-9)


@pytest.mark.parametrize("block", [4, 1024])
def test_kid_of_pairs_equals_brute_force(monkeypatch, block):
    monkeypatch.setattr(kid, "_BLOCK", block)
    real, drawn = draw(0, 10, 3), draw(1, 10, 3, shift=0.5)
    values = kid.compute_kid(real, drawn, is_paired=True)
    assert values["kid"] == pytest.approx(compute_slowly(real, drawn, True), rel=1e-9)
    without = [
        compute_slowly(np.delete(real, i, 0), np.delete(drawn, i, 0), True) for i in range(10)
    ]
    variance = compute_jackknife_variance(without)
    assert values["kid_standard_error"] == pytest.approx(variance**0.5, rel=1e-9)


def test_only_sets_of_equal_size_can_be_paired():
    with pytest.raises(ValueError, match="10 real images cannot be paired with 11 drawn ones"):
        kid.compute_kid(draw(0, 10), draw(1, 11), is_paired=True)


def test_pairs_with_the_same_prompt_do_not_make_kid_negative():
    """Both images of a row have the same center, as if both belonged to the same prompt."""

    def compute(i, is_paired):
        centers = 3 * draw((2, i), 100)
        real, drawn = draw((0, i), 100) + centers, draw((1, i), 100) + centers
        return tuple(kid.compute_kid(real, drawn, is_paired).values())

    kids, errors = np.array([compute(i, True) for i in range(200)]).T
    assert abs(kids.mean()) < 3 * kids.std() / len(kids) ** 0.5
    assert 0.9 < np.sqrt(np.mean(errors**2)) / kids.std() < 1.7
    kids, errors = np.array([compute(i, False) for i in range(20)]).T
    assert np.all(kids < -2 * errors)  # the fault that pairing avoids


def test_kid_of_a_memory_map_is_the_same(tmp_path):
    real, drawn = draw(0, 100), draw(1, 80)
    np.save(tmp_path / "real.npy", real)
    mapped = np.load(tmp_path / "real.npy", mmap_mode="r")
    assert kid.compute_kid(mapped, drawn) == kid.compute_kid(real, drawn)


@pytest.fixture(scope="module")
def repeated():
    """KIDs and standard errors of 300 pairs of sets, by the shift between the sets."""
    return {
        shift: [
            tuple(kid.compute_kid(draw((0, i), 60), draw((1, i), 90, shift=shift)).values())
            for i in range(300)
        ]
        for shift in (0.0, 0.4)
    }


def test_kid_has_no_bias(repeated):
    kids = np.array(repeated[0.0])[:, 0]
    assert abs(kids.mean()) < 3 * kids.std() / len(kids) ** 0.5


@pytest.mark.parametrize("shift, highest", [(0.0, 1.7), (0.4, 1.25)])
def test_the_standard_error_is_the_real_spread_or_a_little_more(repeated, shift, highest):
    """Without a difference, the jackknife's error is about sqrt(2) times the real one."""
    kids, errors = np.array(repeated[shift]).T
    ratio = np.sqrt(np.mean(errors**2)) / kids.std()
    assert 0.9 < ratio < highest


def test_kid_grows_with_the_shift_and_finds_a_missing_mode():
    real = draw(0, 400)
    kids = [kid.compute_kid(real, draw(1, 400, shift=shift))["kid"] for shift in (0, 0.3, 0.6)]
    assert abs(kids[0]) < 0.01 < kids[1] < kids[2]
    centers = np.repeat([[-2.0], [2.0]], 200, axis=0)
    values = kid.compute_kid(draw(0, 400) + centers, draw(1, 400) + 2.0)
    assert values["kid"] > 5 * values["kid_standard_error"]
