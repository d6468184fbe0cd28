"""DPM-Solver++ (Lu et al., 2022) of second order, without and with added noise."""

import dataclasses

import numpy as np

from t2i_tpu.diffusion.samplers.first_order import ddim, euler_ancestral
from t2i_tpu.diffusion.samplers.table import Table


def dpmpp_2m(levels: np.ndarray, path) -> Table:
    """Return DPM-Solver++(2M) (Lu et al., 2022, algorithm 2)."""
    return _extrapolate(ddim(levels, path), levels, path)


def dpmpp_2m_sde(levels: np.ndarray, path) -> Table:
    """Return SDE-DPM-Solver++(2M) with eta = 1, in k-diffusion's midpoint form."""
    return _extrapolate(euler_ancestral(levels, path), levels, path)


def find_log_snr_steps(levels: np.ndarray, path) -> np.ndarray:
    """Return h, the increase of log(alpha / sigma) in each step. It is infinite at level 1 and 0."""
    scales = path(levels)
    with np.errstate(divide="ignore"):
        return np.diff(np.log(scales.signal) - np.log(scales.noise))


def find_ratios(h: np.ndarray) -> np.ndarray:
    """Return 1 / r for each step, where r is the length of the previous step divided by that of the step.

    The result is 0, which makes the step one of first order, if there is no previous step or if either of
    the two is infinite.
    """
    before = np.concatenate([[np.inf], h[:-1]])
    return np.where(np.isfinite(h), h, 0.0) / before


def _extrapolate(first_order: Table, levels: np.ndarray, path) -> Table:
    """Return a table that extrapolates the estimate to the middle of each step of log SNR."""
    latest = first_order.estimates[:, 0]
    change = latest * find_ratios(find_log_snr_steps(levels, path)) / 2
    estimates = np.stack([latest + change, -change, np.zeros_like(change)], axis=1)
    return dataclasses.replace(first_order, estimates=estimates)
