"""Tests that samplers converge to exact solutions, at their order."""

import numpy as np
import pytest

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.diffusion.prediction import PREDICTIONS, target, to_denoised
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.schedules import LEVELS, karras, log_snr, shifted, uniform
from tests.diffusion.closed_forms import Mixture, compute_moments, make_gaussian, run_table

X = np.linspace(-2.5, 2.5, 41)
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}
ORDERS_WITH_NOISE = {"euler_ancestral": 1, "dpmpp_2m_sde": 2}


def fit_order(numbers, errors):
    """Return the exponent p of errors that fall like numbers**-p."""
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0]


def test_every_sampler_has_an_expected_order():
    assert ORDERS.keys() | ORDERS_WITH_NOISE.keys() == SAMPLERS.keys()


@pytest.mark.parametrize("sampler", ORDERS)
@pytest.mark.parametrize("path", PATHS)
def test_errors_fall_with_the_expected_order(path, sampler):
    problem, numbers = Mixture(path), (64, 128, 256)
    expected = problem.solve(X, 0.9, 0.1)
    errors = []
    for steps in numbers:
        table = SAMPLERS[sampler](np.linspace(0.9, 0.1, steps + 1), PATHS[path])
        errors.append(np.abs(run_table(table, problem.denoise, X)[0] - expected).max())
    assert fit_order(numbers, errors) == pytest.approx(ORDERS[sampler], abs=0.16)


@pytest.mark.parametrize("sampler", ORDERS_WITH_NOISE)
@pytest.mark.parametrize("path", PATHS)
def test_errors_of_the_distribution_fall_with_the_expected_order(path, sampler):
    """With Gaussian data, the mean is exact and the variance converges."""
    problem, numbers = make_gaussian(path), (64, 128, 256)
    (start_mean, start_std), (mean, std) = map(problem.get_normals, (0.9, 0.1))
    errors = []
    for steps in numbers:
        table = SAMPLERS[sampler](np.linspace(0.9, 0.1, steps + 1), PATHS[path])
        moments, _ = compute_moments(table, problem, start_mean[0], start_std[0])
        assert moments[0] == pytest.approx(mean[0], abs=1e-12)
        errors.append(abs(moments[1] ** 2 - std[0] ** 2))
    assert fit_order(numbers, errors) == pytest.approx(ORDERS_WITH_NOISE[sampler], abs=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("schedule", [uniform, shifted, karras, log_snr])
def test_samplers_draw_gaussian_data(schedule, path, sampler):
    """Pure noise becomes images with the mean 0.3 and the standard deviation 0.4 of the data."""
    table = SAMPLERS[sampler](schedule(200, PATHS[path]), PATHS[path])
    _, (mean, std) = compute_moments(table, make_gaussian(path), 0.0, 1.0)
    assert mean == pytest.approx(0.3, abs=3e-3)
    assert std == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", ORDERS)
@pytest.mark.parametrize("path", PATHS)
def test_paths_and_prediction_types_give_the_same_image(path, sampler, kind):
    """The limit depends on the noise and on sigma / alpha only, so the linear path's is exact."""
    problem = Mixture(path)

    def denoise(x, level):
        """Convert the output of a network that is trained on this prediction type."""
        alpha, sigma = problem.scales(level)
        estimate = problem.denoise(x, level)
        z = (x - alpha * estimate) / sigma
        output = target(kind, PATHS[path], estimate, z, level)
        return np.asarray(to_denoised(kind, PATHS[path], output, x, level), np.float64)

    table = SAMPLERS[sampler](log_snr(150, PATHS[path]), PATHS[path])
    _, image = run_table(table, denoise, X)
    np.testing.assert_allclose(image, Mixture("linear").solve(X, 1.0, 0.0), atol=0.03)


@pytest.mark.parametrize("schedule", LEVELS)
def test_schedules_give_the_same_image(schedule):
    """The baseline starts below level 1, as if its noise were an image at that level."""
    problem, path = Mixture("linear"), PATHS["linear"]
    levels = LEVELS[schedule](150, path, 2.0)
    _, image = run_table(SAMPLERS["dpmpp_2m"](levels, path), problem.denoise, X)
    np.testing.assert_allclose(image, problem.solve(X, levels[0], 0.0), atol=0.02)


def test_high_orders_need_few_calls():
    problem, path = Mixture("linear"), PATHS["linear"]
    expected = problem.solve(X, 1.0, 0.0)
    errors = {}
    for sampler in ("ddim", "dpmpp_2m", "unipc"):
        _, image = run_table(SAMPLERS[sampler](log_snr(12, path), path), problem.denoise, X)
        errors[sampler] = np.sqrt(np.mean((image - expected) ** 2))
    assert errors["unipc"] < errors["dpmpp_2m"] < errors["ddim"] / 3
