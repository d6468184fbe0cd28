"""Tables of coefficients that represent samplers, and the loop that runs them."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Table:
    """A linear multistep solver for one path and one schedule, with a row for each network call.

    After call i, whose estimate of the clean image is D_i = denoise(x, levels[i]),

        x <- carry[i] x + estimates[i, 0] D_i + estimates[i, 1] D_{i-1} + estimates[i, 2] D_{i-2}
             + noise[i] z_i

    with fresh standard normal noise z_i. The image is the estimate of the last call.

    Attributes:
      levels: float64 [E], the noise level of each of the E calls.
      carry: float64 [E], the weight of x.
      estimates: float64 [E, 3], the weights of the three latest estimates, latest first.
      noise: float64 [E], the scale of the fresh noise.
    """

    levels: np.ndarray
    carry: np.ndarray
    estimates: np.ndarray
    noise: np.ndarray

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return the columns in float32, for `solve`."""
        return {name: column.astype(np.float32) for name, column in vars(self).items()}


def make_table(levels, carry, estimates, noise=None) -> Table:
    """Return a table from its columns.

    Args:
      levels: the noise level of each call.
      carry: the weight of the current image.
      estimates: the weights of the latest estimate and of up to two earlier ones, one column each.
      noise: the scale of the noise. It defaults to zero.
    """
    columns = np.zeros((len(levels), 3))
    for index, column in enumerate(estimates):
        columns[:, index] = column
    noise = np.zeros(len(levels)) if noise is None else np.asarray(noise, np.float64)
    return Table(np.asarray(levels, np.float64), np.asarray(carry, np.float64), columns, noise)


def solve(
    denoise: Callable,
    x,
    history: tuple,
    rows: Mapping[str, object],
    draw: Callable | None,
    start: int,
    end: int,
) -> tuple:
    """Run the rows `start` to `end` - 1 of a table in one loop on the device.

    Consecutive calls can use different denoisers. Each call continues from the state that the previous
    call returned.

    Args:
      denoise: a function (x, scalar noise level) -> estimate of the clean image, shaped like x.
      x: float32 [batch, ...], the current noisy image. Before the first row, it is usually pure noise.
      history: the last three estimates, latest first, or zeros before the first row.
      rows: the columns of the table as float32 tensors; see `Table.as_arrays`. They may be arguments
        of a compiled function, which then runs any table of the same length.
      draw: a function (row index) -> standard normal noise shaped like x, or None if the table adds
        no noise.
      start: the first row.
      end: the row after the last.

    Returns:
      x and history after these rows. The image is history[0].
    """

    def step(index, state):
        x, first, second, _ = state
        latest = denoise(x, rows["levels"][index])
        weights = rows["estimates"][index]
        x = rows["carry"][index] * x
        x += weights[0] * latest + weights[1] * first + weights[2] * second
        if draw is not None:
            x += rows["noise"][index] * draw(index)
        return x, latest, first, second

    x, *history = ops.fori_loop(start, end, step, (x, *history))
    return x, tuple(history)
