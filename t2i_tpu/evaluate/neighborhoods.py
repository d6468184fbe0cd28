"""Computes distances from points to their neighbors within a set, and distances between sets in chunks."""

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

_MEBIBYTES = 64  # memory for a chunk of distances


def compute_radii(points: np.ndarray, neighbors: int) -> np.ndarray:
    """Return the distance from each point to its k-th nearest neighbor in the set, float [N].

    Args:
      points: float [N, dim], more rows than `neighbors`.
      neighbors: k; 1 means the nearest other point. A duplicate of a point counts as another point.
    """
    # Each point is at distance 0 from itself, so the result is at this index of its sorted distances.
    radii = [
        np.partition(distances, neighbors, axis=1)[:, neighbors].copy()
        for _, distances in iterate_distances(points, points)
    ]
    return np.concatenate(radii)


def iterate_distances(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the Euclidean distances from a chunk of the points to all others, for all chunks.

    scikit-learn computes them in float64 and rounds them to the precision of the arguments.

    Yields:
      The rows of the chunk, and float [rows, len(others)].
    """
    start = 0
    for distances in pairwise_distances_chunked(points, others, working_memory=_MEBIBYTES):
        yield slice(start, start + len(distances)), distances
        start += len(distances)
