"""Tests spherical interpolation against geometry."""

import math

import numpy as np
import pytest

from t2i_tpu.diffusion.interpolation import slerp


def measure_angles(points):
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return np.arccos(np.clip(np.sum(unit[:-1] * unit[1:], axis=1), -1, 1))


def test_points_lie_on_a_quarter_circle():
    points = slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 4)
    c, s = math.sqrt(3) / 2, 0.5  # at 30 degrees
    np.testing.assert_allclose(points, [[1, 0], [c, s], [s, c], [0, 1]], atol=1e-6)
    assert points.dtype == np.float32


def test_directions_turn_evenly_and_lengths_change_linearly():
    rng = np.random.default_rng(0)
    start, end = rng.standard_normal((2, 4, 4, 3)) * [[[[1.0]]], [[[3.0]]]]
    points = slerp(start, end, 9)
    assert points.shape == (9, 4, 4, 3)
    flat = points.reshape(9, -1).astype("float64")
    np.testing.assert_allclose(flat[0], start.ravel(), atol=1e-6)
    np.testing.assert_allclose(flat[-1], end.ravel(), atol=1e-6)
    turned = measure_angles(flat)
    np.testing.assert_allclose(turned, turned[0], rtol=1e-4)
    lengths = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(np.diff(lengths), (lengths[-1] - lengths[0]) / 8, rtol=1e-4)


def test_every_point_lies_in_the_plane_of_the_ends():
    start, end = np.random.default_rng(1).standard_normal((2, 6))
    points = slerp(start, end, 5).astype("float64")
    assert np.linalg.matrix_rank(np.vstack([start, end, points]), tol=1e-5) == 2


def test_the_midpoint_of_two_noises_has_the_norm_of_noise():
    """On a straight line, the midpoint would be shorter by a factor of sqrt(2)."""
    start, end = np.random.default_rng(2).standard_normal((2, 3000))
    middle = slerp(start, end, 3)[1]
    assert np.linalg.norm(middle) / math.sqrt(3000) == pytest.approx(1, abs=0.05)


def test_one_direction_is_scaled_and_opposite_ones_stay_finite():
    points = slerp(np.array([2.0, 0.0]), np.array([4.0, 0.0]), 3)
    np.testing.assert_allclose(points, [[2, 0], [3, 0], [4, 0]], atol=1e-6)
    opposite = slerp(np.array([1.0, 0.0]), np.array([-1.0, 0.0]), 3)
    np.testing.assert_allclose(opposite[[0, 2]], [[1, 0], [-1, 0]], atol=1e-6)
    assert np.isfinite(opposite).all()
