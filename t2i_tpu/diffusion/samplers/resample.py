"""RePaint's resampling, which lets the drawn part of an image adapt to its known part."""

import dataclasses

import numpy as np

from t2i_tpu.diffusion.samplers.table import Table


def resample(table: Table, levels: np.ndarray, path, times: int) -> Table:
    """Return a first-order table that visits each level several times (Lugmayr et al., 2022).

    After each visit but the last, the step to the next level is followed by adding noise until the
    image is back at the level. Both are one row, whose noise has their combined variance. At level 1,
    which is pure noise, one visit is enough.

    Args:
      table: a table whose rows use the latest estimate only, such as that of ddim.
      levels: the levels that it was made for, float64 [N + 1].
      path: the path that it was made for.
      times: number of visits to each level, at least 1.
    """
    here, there = path(levels[:-1]), path(levels[1:])
    # The share of the image at the next level that remains when noise brings it back.
    kept = here.signal / there.signal
    added = here.noise**2 - (kept * there.noise) ** 2
    back = Table(
        table.levels,
        kept * table.carry,
        kept[:, None] * table.estimates,
        np.sqrt((kept * table.noise) ** 2 + added),
    )
    visits = np.where(here.signal > 0, times, 1)
    rows = np.repeat(np.arange(len(visits)), visits)
    is_last = np.append(np.diff(rows) > 0, True)
    columns = {
        name: np.where(_align(is_last, column), column[rows], vars(back)[name][rows])
        for name, column in vars(table).items()
    }
    return dataclasses.replace(table, **columns)


def _align(mask: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return a mask of rows that broadcasts with a column, [E] or [E, 3]."""
    return mask.reshape(-1, *[1] * (column.ndim - 1))
