"""Tests KID against brute force, against chance, and against known changes of the features."""

import itertools

import numpy as np
import pytest

from t2i_tpu.evaluate.distances import kid


def draw(seed, count, dim=8, shift=0.0):
    points = np.random.default_rng(seed).standard_normal((count, dim)) + shift
    return points.astype(np.float32)


def compute_slowly(real, drawn):
    """Return the U-statistic by its definition, from Python floats."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    real, drawn = real.tolist(), drawn.tolist()
    return (
        mean(kernel(x, y) for x, y in itertools.permutations(real, 2))
        + mean(kernel(x, y) for x, y in itertools.permutations(drawn, 2))
        - 2 * mean(kernel(x, y) for x, y in itertools.product(real, drawn))
    )


def leave_one_out(real, drawn):
    """Return the standard error by the two-sample jackknife, by its definition."""
    variance = 0
    for kids in (
        [compute_slowly(np.delete(real, i, 0), drawn) for i in range(len(real))],
        [compute_slowly(real, np.delete(drawn, i, 0)) for i in range(len(drawn))],
    ):
        variance += (len(kids) - 1) * np.var(kids)
    return variance**0.5


@pytest.mark.parametrize("block", [4, 9, 2048])
def test_kid_and_its_standard_error_equal_brute_force(monkeypatch, block):
    """Blocks of 4 and 9 rows do not divide the sets, of 9 and 14 points, evenly."""
    monkeypatch.setattr(kid, "_BLOCK", block)
    real, drawn = draw(0, 9, 3), draw(1, 14, 3, shift=0.5)
    values = kid.compute_kid(real, drawn)
    assert values["kid"] == pytest.approx(compute_slowly(real, drawn), rel=1e-9)
    assert values["kid_standard_error"] == pytest.approx(leave_one_out(real, drawn), rel=1e-9)


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
