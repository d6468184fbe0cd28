"""Measures how evenly images change along a path, such as one between two prompts."""

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.distances.distance import Figure

FIGURES = (
    Figure(
        "largest_step",
        "Largest step of a path",
        "lower",
        "The largest change between neighboring images of a path, relative to the mean change. It is "
        "1 if the images change evenly, and equals the number of steps if all of the change happens "
        "in one of them.",
    ),
)


def compute_smoothness(paths: np.ndarray) -> dict[str, float]:
    """Return "largest_step": the largest step over the mean step, averaged over paths.

    Args:
      paths: float [paths, frames, dim], features of the images of each path, at least 3 frames.

    Raises:
      UserError: there are too few frames, or all images of a path have the same features.
    """
    if paths.shape[1] < 3:
        raise UserError(
            f"the smoothness of a path needs at least 3 images, but it has {paths.shape[1]}; "
            "draw more images for each path"
        )
    steps = np.linalg.norm(np.diff(paths.astype(np.float64), axis=1), axis=2)
    means = steps.mean(axis=1)
    if not means.all():
        raise UserError(
            f"all images of path {int(np.argmin(means))} have the same features, so its smoothness is "
            "undefined; evaluate another checkpoint"
        )
    return {"largest_step": float(np.mean(steps.max(axis=1) / means))}
