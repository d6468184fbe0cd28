"""Tests the inversion of images against the exact flow."""

import numpy as np
import pytest

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.invert import invert
from t2i_tpu.diffusion.schedules import log_snr
from tests.diffusion.closed_forms import Mixture, run_table

NOISE = np.linspace(-2.5, 2.5, 41)


def invert_image(problem, image, levels, path):
    table = invert(levels, PATHS[path])
    x = PATHS[path](table.levels[:1]).signal * image
    return run_table(table, problem.denoise, x)[0]


@pytest.mark.parametrize("path", PATHS)
def test_inversion_finds_the_noise_of_the_exact_flow(path):
    """The image is the estimate at the last level, which is what a sampler returns."""
    problem, errors = Mixture(path), []
    for steps in (12, 50):
        levels = log_snr(steps, PATHS[path])
        image = problem.denoise(problem.solve(NOISE, 1.0, levels[-2]), levels[-2])
        errors.append(np.abs(invert_image(problem, image, levels, path) - NOISE).max())
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
@pytest.mark.parametrize("path", PATHS)
def test_samplers_draw_the_image_from_its_noise(path, sampler):
    """The mean error at 50 steps must be at most 2 out of 255, which is 0.016 here."""
    problem, levels = Mixture(path), log_snr(50, PATHS[path])
    image = problem.solve(NOISE, 1.0, 0.0)
    noise = invert_image(problem, image, levels, path)
    _, back = run_table(SAMPLERS[sampler](levels, PATHS[path]), problem.denoise, noise)
    assert np.abs(back - image).mean() < 0.002


def test_search_recovers_details_that_the_denoiser_drops():
    """A denoiser that halves deviations from 0.3 returns another image without the search."""

    def denoise(x, level):
        return 0.3 + 0.5 * (x / (1 - level) - 0.3)

    path, image = PATHS["linear"], np.linspace(-1, 1, 9)
    levels = log_snr(50, path)
    table = invert(levels, path)
    x = (1 - table.levels[0]) * image
    for index in range(2):
        assert table.levels[index] == levels[-2]
        x = x + (1 - levels[-2]) * (image - denoise(x, levels[-2]))
    rows = type(table)(*(column[:2] for column in vars(table).values()))
    got, _ = run_table(rows, denoise, (1 - levels[-2]) * image)
    np.testing.assert_allclose(got, x, atol=1e-12)
    # Each step halves the error, which is half of the deviation at first.
    np.testing.assert_allclose(denoise(got, levels[-2]) - image, -(image - 0.3) / 8, atol=1e-12)
