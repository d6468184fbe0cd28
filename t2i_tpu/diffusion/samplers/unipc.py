"""UniPC, a predictor with a corrector that needs no additional call of the network."""

import dataclasses

import numpy as np

from t2i_tpu.diffusion.samplers.dpmpp import dpmpp_2m, find_log_snr_steps, find_ratios
from t2i_tpu.diffusion.samplers.first_order import ddim
from t2i_tpu.diffusion.samplers.table import Table


def unipc(levels: np.ndarray, path) -> Table:
    """Return UniPC-2 with B(h) = exp(h) - 1 (Zhao et al., 2023), which converges with order 3.

    Its predictor UniP-2 equals DPM-Solver++(2M). The corrector UniC-2 is applied to an image once
    its estimate is known. It is linear in the estimates, so one row corrects and predicts.
    """
    predictor = dpmpp_2m(levels, path)
    correction = _find_corrections(levels, path) - _shift(predictor.estimates)
    estimates = predictor.estimates.copy()
    # The image that a row starts from was predicted by the row before it.
    estimates[1:] += predictor.carry[1:, None] * correction[:-1]
    return dataclasses.replace(predictor, estimates=estimates)


def _shift(estimates: np.ndarray) -> np.ndarray:
    """Return weights of a step's prediction as weights of the estimates from the end of the step on."""
    return np.pad(estimates, ((0, 0), (1, 0)))[:, :3]


def _find_corrections(levels: np.ndarray, path) -> np.ndarray:
    """Return the weights of each step's corrector.

    Returns:
      float64 [N, 3], the weights of the estimates at the end of the step, at its start, and at the
      start of the step before it.
    """
    h = find_log_snr_steps(levels, path)
    inverse_r = find_ratios(h)
    is_second_order = inverse_r > 0
    # The equations of the paper: a + b = b_1 and -r a + b = b_2, with a and b the weights of the
    # divided differences to the point before the step and to the end of the step.
    h, r = np.where(is_second_order, [h, 1 / np.maximum(inverse_r, 1e-300)], 1.0)
    growth = -np.expm1(-h)
    b_1 = (1 - growth / h) / growth
    b_2 = 2 * (0.5 - (1 - growth / h) / h) / growth
    a = (b_1 - b_2) / (1 + r)
    before = np.where(is_second_order, -a / r, 0.0)
    end = np.where(is_second_order, b_1 - a, 0.5)
    weights = np.stack([end, 1 - end - before, before], axis=1)
    return ddim(levels, path).estimates[:, :1] * weights
