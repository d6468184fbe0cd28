"""Precision and recall.

Kynkäänniemi et al., 2019, "Improved precision and recall metric for assessing generative models"
(arXiv:1904.06991). A set's manifold is estimated as the union of balls around its points. A ball
reaches its point's third-nearest neighbor in the set. Precision is the share of drawn points in the
manifold of the real ones, and recall the share of real points in that of the drawn ones.
"""

import numpy as np

from t2i_tpu.evaluate.distances.distance import Distance, Figure
from t2i_tpu.evaluate.neighborhoods import compute_radii, iterate_distances

_NEIGHBORS = 3
# With fewer images, the figures depend too much on chance.
_LEAST_COUNT = 10 * _NEIGHBORS


def compute_precision_recall(real: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return "precision" and "recall", in [0, 1].

    Args:
      real: float [N, dim], more than 3 rows.
      drawn: float [M, dim], more than 3 rows.
    """
    real_radii, drawn_radii = compute_radii(real, _NEIGHBORS), compute_radii(drawn, _NEIGHBORS)
    is_precise, is_recalled = np.zeros(len(drawn), bool), np.zeros(len(real), bool)
    for rows, distances in iterate_distances(real, drawn):
        # A point on the edge of a ball belongs to it, as in the authors' equation 1.
        is_precise |= (distances <= real_radii[rows, None]).any(axis=0)
        is_recalled[rows] = (distances <= drawn_radii).any(axis=1)
    return {"precision": float(is_precise.mean()), "recall": float(is_recalled.mean())}


DISTANCE = Distance(
    figures=(
        Figure(
            "precision",
            "Precision",
            "higher",
            "The share of drawn images that look like some real image. It is low if many drawn images "
            "are faulty, but high even if all of them are alike or blurred.",
        ),
        Figure(
            "recall",
            "Recall",
            "higher",
            "The share of real images that look like some drawn image. It is low if some kinds of "
            "real images are never drawn.",
        ),
    ),
    count_needed=lambda dim: _LEAST_COUNT,
    compute=compute_precision_recall,
)
