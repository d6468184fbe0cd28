"""Density and coverage.

Naeem et al., 2020, "Reliable fidelity and diversity metrics for generative models"
(arXiv:2002.09797). Unlike precision and recall, they use only balls around real points, which an
outlier among the drawn points cannot enlarge. Density counts the balls that contain each drawn
point, and coverage is the share of balls that contain a drawn point.
"""

import numpy as np

from t2i_tpu.evaluate.distances.distance import Distance, Figure
from t2i_tpu.evaluate.neighborhoods import compute_radii, iterate_distances

_NEIGHBORS = 5
# With fewer images, the figures depend too much on chance.
_LEAST_COUNT = 10 * _NEIGHBORS


def compute_density_coverage(real: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return "density", at least 0 and around 1 for equal distributions, and "coverage", in [0, 1].

    Args:
      real: float [N, dim], more than 5 rows.
      drawn: float [M, dim].
    """
    radii = compute_radii(real, _NEIGHBORS)
    num_inside, is_covered = 0, np.zeros(len(real), bool)
    for rows, distances in iterate_distances(real, drawn):
        # A point on the edge of a ball does not belong to it, as in the authors' code.
        is_inside = distances < radii[rows, None]
        num_inside += int(np.count_nonzero(is_inside))
        is_covered[rows] = is_inside.any(axis=1)
    density = num_inside / (_NEIGHBORS * len(drawn))
    return {"density": density, "coverage": float(is_covered.mean())}


DISTANCE = Distance(
    figures=(
        Figure(
            "density",
            "Density",
            "higher",
            "How many real images a drawn image resembles on average, relative to the number that is "
            "expected for a real image. It is around 1 for real images and lower if many drawn images "
            "are faulty; it exceeds 1 if drawn images are too typical or blurred, which is not better.",
        ),
        Figure(
            "coverage",
            "Coverage",
            "higher",
            "The share of real images that have a drawn image among their close neighbors. It is low "
            "if some kinds of real images are never drawn, and usually slightly below 1 even for real "
            "images.",
        ),
    ),
    count_needed=lambda dim: _LEAST_COUNT,
    compute=compute_density_coverage,
)
