"""Tests the schedules against literal loops and their definitions."""

import numpy as np
import pytest

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.diffusion.schedules import LEVELS, baseline, karras, log_snr, shifted, uniform


def test_baseline_levels_match_a_literal_loop():
    levels = baseline(35)
    assert len(levels) == 35
    by_hand = []
    u = 0.0001
    while u < 0.99:
        by_hand.append(1 - u ** (1 / 3))
        u += 1 / 35
    by_hand[-1] = 0.01
    np.testing.assert_allclose(levels, by_hand, rtol=1e-9)
    assert levels[0] == pytest.approx(0.953584, abs=1e-6)  # 1 - 0.0464159
    assert levels[-1] == 0.01
    assert (np.diff(levels) < 0).all()


def test_uniform_and_shifted_levels_match_hand_computed_values():
    np.testing.assert_allclose(uniform(4), [1, 0.75, 0.5, 0.25, 0])
    # Esser et al., equation 23, with alpha = 2: 2 t / (1 + t)
    np.testing.assert_allclose(shifted(4, shift=2.0), [1, 6 / 7, 2 / 3, 0.4, 0])
    np.testing.assert_allclose(shifted(4, shift=1.0), uniform(4))
    # 0.5 t / (1 - 0.5 t)
    np.testing.assert_allclose(shifted(4, shift=0.5), [1, 0.6, 1 / 3, 1 / 7, 0])


def compute_ratios(name, levels):
    """Return sigma / alpha."""
    return levels / (1 - levels) if name == "linear" else np.tan(levels * np.pi / 2)


@pytest.mark.parametrize("name", PATHS)
def test_karras_ratios_are_those_of_the_paper(name):
    levels = karras(10, PATHS[name])
    assert levels[0] == 1
    assert levels[-1] == 0
    # Karras et al., 2022, equation 5 with N = 10, sigma_max = 20 and sigma_min = 0.05
    expected = [
        (20 ** (1 / 7) + i / 9 * (0.05 ** (1 / 7) - 20 ** (1 / 7))) ** 7 for i in range(1, 10)
    ]
    np.testing.assert_allclose(compute_ratios(name, levels[1:-1]), expected, rtol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_log_snr_levels_are_even_in_log_snr(name):
    levels = log_snr(10, PATHS[name])
    assert levels[0] == 1
    assert levels[-1] == 0
    logs = np.log(compute_ratios(name, levels[1:-1]))
    np.testing.assert_allclose(np.diff(logs), np.log(0.05 / 20) / 9, rtol=1e-9)
    assert logs[-1] == pytest.approx(np.log(0.05))


@pytest.mark.parametrize("steps", [2, 3, 8, 35, 250])
@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("name", LEVELS)
def test_levels_descend(name, path, steps):
    levels = LEVELS[name](steps, path, 3.0)
    assert levels.dtype == np.float64
    if name != "baseline":
        assert len(levels) == steps + 1
    assert (np.diff(levels) < 0).all()
    assert 0 <= levels[-1] < levels[0] <= 1
