"""Tests RePaint's resampling against a literal implementation of its loop."""

import numpy as np
import pytest

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.resample import resample
from t2i_tpu.diffusion.samplers.table import Table
from t2i_tpu.diffusion.schedules import shifted, uniform
from tests.diffusion.closed_forms import NUMPY_SCALES, compute_moments, make_gaussian, run_table


def make_literal_rows(sampler, path, levels, times):
    """Return RePaint's loop as a table with a row for each step and for each return."""
    table, rows = SAMPLERS[sampler](levels, PATHS[path]), []
    for index in range(len(levels) - 1):
        alpha, sigma = NUMPY_SCALES[path](levels[index])
        next_alpha, next_sigma = NUMPY_SCALES[path](levels[index + 1])
        for visit in range(times):
            rows.append([column[index] for column in vars(table).values()])
            if visit < times - 1:
                # The forward process between two levels, x <- kept x + noise.
                kept = alpha / next_alpha
                noise = np.sqrt(sigma**2 - (kept * next_sigma) ** 2)
                # A row that ignores its estimate.
                rows.append([levels[index + 1], kept, np.zeros(3), noise])
    return Table(*map(np.array, zip(*rows, strict=True)))


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("times", [1, 3])
def test_images_have_the_distribution_of_the_literal_loop(times, path, sampler):
    """With Gaussian data, the distribution of the image is known without drawing anything."""
    levels = np.append(np.linspace(0.95, 0.2, 5), 0.0)
    table = resample(SAMPLERS[sampler](levels, PATHS[path]), levels, PATHS[path], times)
    problem = make_gaussian(path)
    moments, _ = compute_moments(table, problem, 0.2, 0.7)
    literal = make_literal_rows(sampler, path, levels, times)
    # Level 0 has no estimate, and the row of a return at level 0 does not use one.
    literal.levels[literal.levels == 0] = 1e-3
    expected, _ = compute_moments(literal, problem, 0.2, 0.7)
    np.testing.assert_allclose(moments, expected, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS.values())
def test_levels_are_visited_several_times_except_pure_noise(path):
    levels = uniform(4)
    table = resample(SAMPLERS["ddim"](levels, path), levels, path, 3)
    assert table.levels.tolist() == [1, *[0.75] * 3, *[0.5] * 3, *[0.25] * 3]
    # The last row draws the image and adds nothing.
    assert (table.carry[-1], table.estimates[-1, 0], table.noise[-1]) == (0, 1, 0)


def test_one_visit_changes_nothing():
    levels, path = shifted(5), PATHS["linear"]
    table = SAMPLERS["euler_ancestral"](levels, path)
    for name, column in vars(resample(table, levels, path, 1)).items():
        np.testing.assert_array_equal(column, vars(table)[name])


@pytest.mark.parametrize("path", PATHS)
def test_x_stays_on_the_path_if_the_estimate_is_constant(path):
    levels = shifted(6)
    table = resample(SAMPLERS["ddim"](levels, PATHS[path]), levels, PATHS[path], 3)
    for end in range(1, len(table.levels)):
        part = Table(*(column[:end] for column in vars(table).values()))
        # x is a constant plus independent draws, and an array of its coefficients stands for it.
        units = np.eye(end + 2)
        x, _ = run_table(
            part, lambda x, level: 0.7 * np.eye(len(x))[0], units[1], units[2:].__getitem__
        )
        alpha, sigma = NUMPY_SCALES[path](table.levels[end])
        assert x[0] == pytest.approx(0.7 * alpha, abs=1e-12)
        assert np.linalg.norm(x[1:]) == pytest.approx(sigma, abs=1e-12)
