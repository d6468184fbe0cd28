"""Schedules of the noise levels that a sampler visits.

A schedule is a function from a number of steps, a path and a shift to descending noise levels,
float64. To add one, write a function and register it in LEVELS; its name must also be a choice of
`SampleConfig.levels`.
"""

import numpy as np

from t2i_tpu.diffusion.noise_levels import shifted as shift_levels

# The ends of the schedules that are defined by the noise-to-signal ratio sigma / alpha, which is
# infinite at level 1 and zero at level 0. Their last level before 0 has the smallest ratio, and their
# first level is 1 in place of the level of the largest ratio, so that they start from pure noise.
LARGEST_RATIO, SMALLEST_RATIO = 20.0, 0.05


def baseline(steps: int, path=None, shift: float = 1.0) -> np.ndarray:
    """Return 1 - u**(1/3) for u from 0.0001 to 0.99 in steps of 1/steps, with the last level 0.01.

    The denoiser is never evaluated at the last level: of 35 levels, the 34th gives the result. The last
    level is smaller than 0.01 if others are, so that the levels descend.
    """
    levels = 1 - np.arange(0.0001, 0.99, 1 / steps) ** (1 / 3)
    levels[-1] = 0.01 if levels[-2] > 0.01 else levels[-2] / 2
    return levels


def uniform(steps: int, path=None, shift: float = 1.0) -> np.ndarray:
    """Return steps + 1 evenly spaced levels from 1 to 0."""
    return np.linspace(1, 0, steps + 1)


def shifted(steps: int, path=None, shift: float = 2.0) -> np.ndarray:
    """Return uniform levels shifted towards noise, where an image's composition is decided.

    A shift of 1 leaves them uniform. Source: Esser et al., 2024, equation 23.
    """
    return shift_levels(uniform(steps), shift)


def karras(steps: int, path, shift: float = 1.0) -> np.ndarray:
    """Return steps + 1 levels with the ratios sigma / alpha of Karras et al., 2022, equation 5.

    The ratios r are evenly spaced in r**(1/7), between LARGEST_RATIO and SMALLEST_RATIO.
    """
    rho = 7.0
    roots = np.linspace(LARGEST_RATIO ** (1 / rho), SMALLEST_RATIO ** (1 / rho), steps)
    return _complete(find_levels(path, roots**rho))


def log_snr(steps: int, path, shift: float = 1.0) -> np.ndarray:
    """Return steps + 1 levels, evenly spaced in log SNR (Lu et al., 2022).

    The ratio sigma / alpha falls from LARGEST_RATIO to SMALLEST_RATIO.
    """
    return _complete(find_levels(path, np.geomspace(LARGEST_RATIO, SMALLEST_RATIO, steps)))


LEVELS = {
    "baseline": baseline,
    "uniform": uniform,
    "shifted": shifted,
    "karras": karras,
    "log_snr": log_snr,
}


def find_levels(path, ratio: np.ndarray) -> np.ndarray:
    """Return the levels at which a path has the given noise-to-signal ratios sigma / alpha."""
    low, high = np.zeros_like(ratio), np.ones_like(ratio)
    for _ in range(60):  # bisection, down to float64's precision
        middle = (low + high) / 2
        scales = path(middle)
        is_below = scales.noise < ratio * scales.signal
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2


def _complete(levels: np.ndarray) -> np.ndarray:
    """Return levels with the first replaced by 1 and a final 0 appended."""
    return np.concatenate([[1.0], levels[1:], [0.0]])
