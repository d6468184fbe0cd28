"""First-order solvers, which use the latest estimate only."""

from typing import NamedTuple

import numpy as np

from t2i_tpu.diffusion.samplers.table import Table, make_table


class Slope(NamedTuple):
    """The coefficients of the slope d x / d level = slope.x * x + slope.estimate * D, float64 [levels]."""

    x: np.ndarray
    estimate: np.ndarray


def find_slope(path, levels: np.ndarray) -> Slope:
    """Return d x / d level = alpha' D + sigma' (x - alpha D) / sigma at levels above 0."""
    # Central differences are exact on the linear path and accurate to 1e-9 on the cosine path.
    step = 1e-5
    above, here, below = path(levels + step), path(levels), path(levels - step)
    x = (above.noise - below.noise) / (2 * step * here.noise)
    return Slope(x, (above.signal - below.signal) / (2 * step) - x * here.signal)


def ddim(levels: np.ndarray, path) -> Table:
    """Return DDIM with eta = 0 (Song et al., 2020), which adds no new noise.

    On the linear path, a step from level n to level m is the baseline's ((n - m) x0 + m x) / n.
    """
    here, there = path(levels[:-1]), path(levels[1:])
    carry = there.noise / here.noise
    return make_table(levels[:-1], carry, [there.signal - carry * here.signal])


def euler(levels: np.ndarray, path) -> Table:
    """Return Euler's method for d x / d level. On the linear path, it equals DDIM."""
    slope = find_slope(path, levels[:-1])
    steps = np.diff(levels)
    return make_table(levels[:-1], 1 + steps * slope.x, [steps * slope.estimate])


def euler_ancestral(levels: np.ndarray, path) -> Table:
    """Return Euler ancestral with eta = 1, which replaces part of the noise at each step.

    It is also the first-order SDE-DPM-Solver++ (Lu et al., 2022). Source: Karras et al.'s ancestral
    step in k-diffusion, in terms of sigma / alpha.
    """
    here, there = path(levels[:-1]), path(levels[1:])
    # sigma / alpha falls by the factor exp(-h).
    kept = (there.noise * here.signal) / (there.signal * here.noise)
    carry = kept * there.noise / here.noise
    noise = there.noise * np.sqrt(1 - kept**2)
    return make_table(levels[:-1], carry, [there.signal * (1 - kept**2)], noise)
