"""The interface of a distance between two sets of features, and the description of a figure."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Figure:
    """The description of a number in a report.

    Attributes:
      name: its key in report.json, such as "precision".
      title: its heading, such as "Precision".
      better: "higher" or "lower", or "" if neither is better.
      meaning: two sentences for a reader who has never seen the figure before.
    """

    name: str
    title: str
    better: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Distance:
    """A comparison of the features of real and drawn images.

    Attributes:
      figures: descriptions of the numbers that `compute` returns.
      count_needed: returns the minimum number of images on each side, given the number of features.
      compute: returns the numbers by figure name, given the features of the real images, float32
        [N, dim], and of the drawn ones, float32 [M, dim]. Both may be np.memmap. The memory that it
        needs does not grow with the square of N or M.
      compute_paired: does the same for images that were drawn for the prompts of the real images in
        the same rows. None if that makes no difference to the distance.
    """

    figures: tuple[Figure, ...]
    count_needed: Callable[[int], int]
    compute: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    compute_paired: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None
