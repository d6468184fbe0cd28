"""Heun's method."""

import numpy as np

from t2i_tpu.diffusion.samplers.first_order import euler, find_slope
from t2i_tpu.diffusion.samplers.table import Table, make_table


def heun(levels: np.ndarray, path) -> Table:
    """Return Heun's method for d x / d level (Karras et al., 2022, algorithm 1, without churn).

    N steps take 2 N - 1 calls: each step calls the network at its start and at the point that Euler's
    method reaches, and the last step is Euler's.
    """
    first = euler(levels, path)
    steps, slope = np.diff(levels)[:-1], find_slope(path, levels[1:-1])
    # The second row of a step starts from Euler's point y = p x + q D and recovers x = (y - q D) / p.
    p, q = first.carry[:-1], first.estimates[:-1, 0]
    second = {
        "levels": levels[1:-1],
        "carry": (1 + p) / (2 * p) + steps * slope.x / 2,
        "latest": steps * slope.estimate / 2,
        "previous": -q / (2 * p),
    }
    size = 2 * len(steps) + 1
    merged = {name: np.zeros(size) for name in second}
    merged["levels"][::2], merged["carry"][::2] = first.levels, first.carry
    merged["latest"][::2] = first.estimates[:, 0]
    for name, column in second.items():
        merged[name][1::2] = column
    estimates = [merged["latest"], merged["previous"]]
    return make_table(merged["levels"], merged["carry"], estimates)
