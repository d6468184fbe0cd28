"""Spherical interpolation, for noise and for embeddings."""

import numpy as np


def slerp(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """`frames` points on the arc from `start` to `end`, both included (Shoemake, 1985).

    Directions turn at constant speed and lengths change linearly, so that points between two draws
    of normal noise are as likely as they are, and points between unit embeddings are unit.

    Args:
      start, end: float arrays of one shape; each is taken as one vector. Neither may be zero.
      frames: at least 2.

    Returns:
      float32 [frames, *shape].
    """
    a, b = (np.asarray(point, np.float64).ravel() for point in (start, end))
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    a, b = a / lengths[0], b / lengths[1]
    angle = np.arccos(np.clip(a @ b, -1.0, 1.0))
    share = np.linspace(0.0, 1.0, frames)[:, None]
    if np.sin(angle) < 1e-6:  # one direction, or opposite ones: no arc is the shortest
        direction = (1 - share) * a + share * b
    else:
        direction = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    points = direction * ((1 - share) * lengths[0] + share * lengths[1])
    points[[0, -1]] = np.ravel(start), np.ravel(end)  # to the last bit
    return points.reshape(frames, *np.shape(start)).astype(np.float32)
