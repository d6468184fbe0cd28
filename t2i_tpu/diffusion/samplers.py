"""From noise to image: schedules of noise levels, solvers, and the one loop that runs them.

On a path x = alpha x0 + sigma z a solver's step is linear in the current image, the denoised
estimate and the one before it:

    x <- carry * x + now * x0 + before * x0_before

so that a solver is a table of three numbers a step, computed here in float64, and the loop is one
compiled loop on the device for all of them.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from t2i_tpu.diffusion.noise_levels import shifted


class Table(NamedTuple):
    """A solver's coefficients, float64 [steps] each."""

    levels: np.ndarray  # the noise level of each evaluation
    carry: np.ndarray
    now: np.ndarray
    before: np.ndarray


def baseline_levels(steps: int) -> np.ndarray:
    """1 - u**(1/3), u from 0.0001 to 0.99 in steps of 1/steps, the last level set to 0.01.

    The baseline evaluates all but the last of them and takes the last evaluation's estimate.
    """
    levels = 1 - np.arange(0.0001, 0.99, 1 / steps) ** (1 / 3)
    levels[-1] = 0.01
    return levels


def uniform_levels(steps: int) -> np.ndarray:
    """steps + 1 levels from 1 to 0."""
    return np.linspace(1, 0, steps + 1)


def shifted_levels(steps: int) -> np.ndarray:
    """Uniform levels moved towards noise, where the composition is decided."""
    return shifted(uniform_levels(steps), shift=2.0)


LEVELS = {"baseline": baseline_levels, "uniform": uniform_levels, "shifted": shifted_levels}


def ddim(levels: np.ndarray, path) -> Table:
    """Song et al., 2020, with eta 0: keep z, change its share. On the linear path this is the
    baseline's ((n - m) x0 + m x) / n for a step from level n to level m."""
    here, there = path(levels[:-1]), path(levels[1:])
    carry = there.noise / here.noise
    return Table(levels[:-1], carry, there.signal - carry * here.signal, np.zeros_like(carry))


def dpmpp_2m(levels: np.ndarray, path) -> Table:
    """DPM-Solver++(2M): Lu et al., 2022, algorithm 2, first order at both ends of the path."""
    first_order = ddim(levels, path)
    scales = path(levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        half_logsnr = np.log(scales.signal / scales.noise)  # -inf at level 1, inf at level 0
        h = np.diff(half_logsnr)
        over_2r = np.concatenate([[0.0], h[1:] / (2 * h[:-1])])  # 1 / (2 r), r = h_before / h
    over_2r = np.where(np.isfinite(over_2r), over_2r, 0.0)
    now = first_order.now
    return Table(levels[:-1], first_order.carry, now * (1 + over_2r), -now * over_2r)


SAMPLERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}


def sample(denoise, x, table: Table):
    """Runs a solver: one loop on the device, one `denoise` a step.

    Args:
      denoise: (x [batch, ...], noise_level scalar) -> denoised [batch, ...], float32.
      x: float32 [batch, ...], pure noise.
      table: of `ddim` or `dpmpp_2m`.

    Returns:
      The last denoised estimate, which is x itself where the levels end at 0.
    """
    levels, carry, now, before = (ops.convert_to_tensor(part, dtype="float32") for part in table)

    def step(index, state):
        x, latest = state
        denoised = denoise(x, levels[index])
        x = carry[index] * x + now[index] * denoised + before[index] * latest
        return x, denoised

    return ops.fori_loop(0, len(table.levels), step, (x, ops.zeros_like(x)))[1]
