"""Samplers: schedules of noise levels, the solvers' steps, and the loop that runs them.

To add a sampler, write a function from noise levels and a path to a `Sampler` and register it in
SAMPLERS; its name must also be a choice of `SampleConfig.sampler`. A schedule is a function from a
number of steps to noise levels, registered in LEVELS.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import ops

from t2i_tpu.diffusion.noise_levels import shifted


class Sampler(NamedTuple):
    """A solver for one path and one schedule of noise levels.

    Levels may start at 1, where alpha is 0, and end at 0, where sigma is 0.

    Attributes:
      num_steps: number of calls of `step`.
      step: a function (index, x, denoised, denoise, draw) -> (x, denoised). Its arguments are
        index: int32 scalar tensor, counted from 0;
        x: float32 [batch, ...], the current image;
        denoised: shaped like x, the estimate that the previous step returned, or zeros at first;
        denoise: (x, scalar noise level) -> denoised, which a step may call any number of times;
        draw: (integer) -> standard normal noise shaped like x, a function of the integer and of
          each image's seed, for samplers that add noise.
        The final image is the denoised estimate that the last step returns; its x is discarded.
    """

    num_steps: int
    step: Callable


def baseline_levels(steps: int) -> np.ndarray:
    """Return 1 - u**(1/3) for u from 0.0001 to 0.99 in steps of 1/steps, with the last level 0.01.

    The denoiser is never evaluated at the last level: of 35 levels, the 34th gives the result.
    """
    levels = 1 - np.arange(0.0001, 0.99, 1 / steps) ** (1 / 3)
    levels[-1] = 0.01
    return levels


def uniform_levels(steps: int) -> np.ndarray:
    """Return steps + 1 evenly spaced levels from 1 to 0."""
    return np.linspace(1, 0, steps + 1)


def shifted_levels(steps: int) -> np.ndarray:
    """Return uniform levels shifted towards noise, where an image's composition is decided."""
    return shifted(uniform_levels(steps), shift=2.0)


LEVELS = {"baseline": baseline_levels, "uniform": uniform_levels, "shifted": shifted_levels}


class Coefficients(NamedTuple):
    """The coefficients of a linear multistep solver, float64 [num_steps] each.

    On a path x = alpha x0 + sigma z, a step of such a solver is linear in the current image, its
    denoised estimate and the previous estimate:

        x <- carry * x + current * x0 + previous * x0_previous
    """

    levels: np.ndarray  # the noise level of each evaluation
    carry: np.ndarray
    current: np.ndarray
    previous: np.ndarray


def ddim_coefficients(levels: np.ndarray, path) -> Coefficients:
    """Return the coefficients of DDIM with eta = 0 (Song et al., 2020), which adds no new noise.

    On the linear path, a step from level n to level m is the baseline's ((n - m) x0 + m x) / n.
    """
    here, there = path(levels[:-1]), path(levels[1:])
    carry = there.noise / here.noise
    current = there.signal - carry * here.signal
    return Coefficients(levels[:-1], carry, current, np.zeros_like(carry))


def dpmpp_2m_coefficients(levels: np.ndarray, path) -> Coefficients:
    """Return the coefficients of DPM-Solver++(2M) (Lu et al., 2022, algorithm 2).

    The steps are of first order at both ends of the path, where logsnr is infinite.
    """
    first_order = ddim_coefficients(levels, path)
    scales = path(levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        half_logsnr = np.log(scales.signal / scales.noise)
        h = np.diff(half_logsnr)
        # 1 / (2 r) with r = h_before / h
        over_2r = np.concatenate([[0.0], h[1:] / (2 * h[:-1])])
    over_2r = np.where(np.isfinite(over_2r), over_2r, 0.0)
    current = first_order.current * (1 + over_2r)
    return Coefficients(levels[:-1], first_order.carry, current, -first_order.current * over_2r)


def multistep(coefficients: Coefficients) -> Sampler:
    """Return a linear multistep solver as a sampler. It evaluates the denoiser once per step."""
    levels, carry, current, previous = (
        ops.convert_to_tensor(column, dtype="float32") for column in coefficients
    )

    def step(index, x, denoised, denoise, draw):
        latest = denoise(x, levels[index])
        x = carry[index] * x + current[index] * latest + previous[index] * denoised
        return x, latest

    return Sampler(len(coefficients.levels), step)


def ddim(levels: np.ndarray, path) -> Sampler:
    """Return the DDIM sampler; see `ddim_coefficients`."""
    return multistep(ddim_coefficients(levels, path))


def dpmpp_2m(levels: np.ndarray, path) -> Sampler:
    """Return the DPM-Solver++(2M) sampler; see `dpmpp_2m_coefficients`."""
    return multistep(dpmpp_2m_coefficients(levels, path))


SAMPLERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}


def sample(denoise: Callable, x, sampler: Sampler, draw: Callable):
    """Run a sampler in one loop on the device.

    Args:
      denoise: a function (x [batch, ...], scalar noise level) -> denoised [batch, ...] in float32.
      x: float32 [batch, ...], pure noise.
      sampler: made by a function from SAMPLERS.
      draw: a function (integer) -> noise; see `Sampler`.

    Returns:
      The denoised estimate of the last step.
    """

    def step(index, state):
        return sampler.step(index, *state, denoise, draw)

    return ops.fori_loop(0, sampler.num_steps, step, (x, ops.zeros_like(x)))[1]
