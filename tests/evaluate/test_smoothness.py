"""Tests smoothness against paths with known steps."""

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.smoothness import compute_smoothness


def make_path(positions):
    """Return points of a line in three dimensions, float32 [1, frames, 3]."""
    return np.multiply.outer(positions, [2.0, -1.0, 2.0]).astype(np.float32)[None]


@pytest.mark.parametrize(
    "positions, largest",
    [
        ([0, 1, 2, 3, 4], 1),  # even
        ([0, 0, 4, 4, 4], 4),  # one jump in four steps
        ([0, 1, 2, 4], 1.5),
        ([0, 1, 0, 1], 1),  # only the sizes of the steps count
    ],
)
def test_largest_step_of_a_line(positions, largest):
    assert compute_smoothness(make_path(positions)) == {"largest_step": pytest.approx(largest)}


def test_paths_are_averaged_whatever_their_lengths():
    paths = np.concatenate([make_path([0, 1, 2, 3]), 100 * make_path([0, 0, 3, 3])])
    assert compute_smoothness(paths)["largest_step"] == pytest.approx(2)


def test_a_path_without_steps_is_an_error():
    paths = np.concatenate([make_path([0, 1, 2]), make_path([1, 1, 1])])
    with pytest.raises(UserError, match="all images of path 1 have the same features"):
        compute_smoothness(paths)


def test_two_images_are_no_path():
    with pytest.raises(UserError, match="at least 3 images, but it has 2"):
        compute_smoothness(make_path([0, 1]))
