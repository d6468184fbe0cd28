"""The table that inverts sampling: it leads from an image to its noise."""

import dataclasses

import numpy as np

from t2i_tpu.diffusion.samplers.table import Table
from t2i_tpu.diffusion.samplers.unipc import unipc


def invert(levels: np.ndarray, path) -> Table:
    """Return a table that leads from an image to the noise that samplers draw it from.

    Start the table from alpha times the image, where alpha is the scale of the signal at the table's first
    level. After its last row, x is the noise.

    Samplers return the estimate of their last call, so the table first looks for a noisy image whose
    estimate at the last of these levels is the image. It makes two steps of the fixed-point iteration
    x <- x + alpha (image - D(x)). The first brings back details that the denoiser drops, and more steps
    bring back more of them but move the noise away from a normal distribution. The table then follows
    the probability flow to level 1 with UniPC.

    Args:
      levels: the levels of a sampler, descending to 0, float64 [N + 1]. log_snr is best, because the
        flow is most curved at low noise levels.
      path: the path.

    Returns:
      A table of N + 1 rows.
    """
    ascending = levels[-2::-1]
    flow = unipc(ascending, path)
    alpha = path(ascending[:1]).signal[0]
    # The iteration starts from x = alpha image, so its second step finds the image in (x + alpha D) / 2.
    search = Table(
        np.repeat(ascending[:1], 2),
        np.array([2.0, 1.5]),
        alpha * np.array([[-1.0, 0.0, 0.0], [-1.0, 0.5, 0.0]]),
        np.zeros(2),
    )
    columns = {
        name: np.concatenate([column, vars(flow)[name]]) for name, column in vars(search).items()
    }
    return dataclasses.replace(flow, **columns)
