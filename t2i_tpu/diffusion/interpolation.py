"""Interpolation between noise, embeddings and encoded conditions."""

import itertools
from collections.abc import Sequence

import numpy as np


def slerp(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """Return points on the arc from `start` to `end`, both included (Shoemake, 1985).

    Directions turn at constant speed and lengths change linearly. Points between two draws of
    normal noise therefore have the typical norm of noise, and points between unit embeddings have
    unit length.

    Args:
      start: a float array, treated as one vector. It must not be zero.
      end: a float array of the same shape. It must not be zero either.
      frames: number of points, at least 2.

    Returns:
      float32 [frames, *shape].
    """
    a, b = (np.asarray(point, np.float64).ravel() for point in (start, end))
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    a, b = a / lengths[0], b / lengths[1]
    angle = np.arccos(np.clip(a @ b, -1.0, 1.0))
    fraction = np.linspace(0.0, 1.0, frames)[:, None]
    # Equal or opposite directions do not determine an arc, so interpolate on the straight line.
    if np.sin(angle) < 1e-6:
        direction = (1 - fraction) * a + fraction * b
    else:
        weights = np.sin((1 - fraction) * angle), np.sin(fraction * angle)
        direction = (weights[0] * a + weights[1] * b) / np.sin(angle)
    points = direction * ((1 - fraction) * lengths[0] + fraction * lengths[1])
    # The ends are exact to the last bit.
    points[[0, -1]] = np.ravel(start), np.ravel(end)
    return points.reshape(frames, *np.shape(start)).astype(np.float32)


def lerp(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """Return evenly spaced points on the line from `start` to `end`, both included.

    The arguments and the result are those of `slerp`; the points may be zero.
    """
    fraction = np.linspace(0.0, 1.0, frames).reshape(-1, *[1] * np.ndim(start))
    return ((1 - fraction) * start + fraction * end).astype(np.float32)


METHODS = {"spherical": slerp, "linear": lerp}


def interpolate(points: Sequence[np.ndarray], frames: int, method: str) -> np.ndarray:
    """Return the points on a path through two or more key points.

    Args:
      points: float arrays of the same shape.
      frames: number of points from each key point to the next, both included, at least 2.
      method: a key of METHODS.

    Returns:
      float32 [(len(points) - 1) * (frames - 1) + 1, *shape].
    """
    legs = [METHODS[method](start, end, frames)[:-1] for start, end in itertools.pairwise(points)]
    return np.concatenate([*legs, np.asarray(points[-1], np.float32)[None]])
