"""Tests samplers against literal loops, k-diffusion and diffusers, and tests their loop on the device."""

import json
from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.path import PATHS, linear
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.table import Table, solve
from t2i_tpu.diffusion.schedules import baseline, karras, log_snr, shifted, uniform
from tests.diffusion import make_reference
from tests.diffusion.closed_forms import NUMPY_SCALES, run_table
from tests.diffusion.make_reference import toy

X = np.random.default_rng(0).standard_normal((2, 2, 2, 1))
NOISE = np.random.default_rng(1).standard_normal((40, *X.shape))
REFERENCE = json.loads(make_reference.PATH.read_text())


def make_rows(table):
    return {name: tf.constant(column) for name, column in table.as_arrays().items()}


def draw_image(denoise, levels, sampler, path):
    """Return the image that a sampler draws from X, in float64."""
    levels = np.asarray(levels, np.float64)
    return run_table(SAMPLERS[sampler](levels, PATHS[path]), denoise, X, NOISE.__getitem__)[1]


def test_ddim_is_the_baselines_loop():
    levels = baseline(35)
    x = X.copy()
    for n, m in pairwise(levels):
        x0 = toy(x, n)
        x = ((n - m) * x0 + m * x) / n
    np.testing.assert_allclose(draw_image(toy, levels, "ddim", "linear"), x0, atol=1e-12)


def test_ddim_keeps_the_noise_on_the_cosine_path():
    """The literal loop is Song et al., 2020, equation 12 with sigma = 0."""
    levels = np.linspace(0.98, 0.02, 9)
    x = X.copy()
    for n, m in pairwise(levels):
        x0 = toy(x, n)
        z = (x - np.cos(n * np.pi / 2) * x0) / np.sin(n * np.pi / 2)
        x = np.cos(m * np.pi / 2) * x0 + np.sin(m * np.pi / 2) * z
    np.testing.assert_allclose(draw_image(toy, levels, "ddim", "cosine"), x0, atol=1e-12)


def compute_slope(path, x, level):
    """Return d x / d level = alpha' x0 + sigma' z, with derivatives by hand."""
    alpha, sigma = NUMPY_SCALES[path](level)
    slopes = (-1, 1) if path == "linear" else (-np.pi / 2 * sigma, np.pi / 2 * alpha)
    x0 = toy(x, level)
    return slopes[0] * x0 + slopes[1] * (x - alpha * x0) / sigma


@pytest.mark.parametrize("path", PATHS)
def test_euler_follows_the_slope(path):
    levels = np.linspace(1, 0.02, 9) ** 1.3
    x = X.copy()
    for n, m in pairwise(levels):
        x0, x = toy(x, n), x + (m - n) * compute_slope(path, x, n)
    np.testing.assert_allclose(draw_image(toy, levels, "euler", path), x0, atol=1e-8)


def test_euler_equals_ddim_on_the_linear_path():
    ddim, euler = (SAMPLERS[name](shifted(9), linear) for name in ("ddim", "euler"))
    np.testing.assert_allclose(euler.carry, ddim.carry, atol=1e-9)
    np.testing.assert_allclose(euler.estimates, ddim.estimates, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_heun_is_algorithm_1(path, steps):
    """The literal loop is Karras et al., 2022, algorithm 1, with the noise level as time."""
    levels = np.append(np.linspace(1, 0.03, steps) ** 1.3, 0.0)
    x = X.copy()
    for t, t_next in pairwise(levels):
        x0 = toy(x, t)
        d = compute_slope(path, x, t)
        x_next = x + (t_next - t) * d
        if t_next > 0:
            d_next = compute_slope(path, x_next, t_next)
            x_next = x + (t_next - t) * (d / 2 + d_next / 2)
        x = x_next
    table = SAMPLERS["heun"](levels, PATHS[path])
    assert len(table.levels) == 2 * steps - 1
    np.testing.assert_allclose(run_table(table, toy, X)[1], x0, atol=1e-8)


def run_literal_dpmpp_2m(denoise, x, levels, scales):
    """Run algorithm 2 of Lu et al., 2022 (DPM-Solver++), line by line; return the last estimate."""
    alpha, sigma = np.array([scales(level) for level in levels]).T
    lambdas = np.log(alpha / sigma)
    h = np.diff(lambdas, prepend=np.nan)  # h[i] = lambda[i] - lambda[i - 1]
    queue = [denoise(x, levels[0])]
    x = sigma[1] / sigma[0] * x - alpha[1] * (np.exp(-h[1]) - 1) * queue[0]
    for i in range(2, len(levels)):
        queue.append(denoise(x, levels[i - 1]))
        r = h[i - 1] / h[i]
        d = (1 + 1 / (2 * r)) * queue[-1] - 1 / (2 * r) * queue[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h[i]) - 1) * d
    return queue[-1]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_dpmpp_2m_is_algorithm_2(path, steps):
    levels = np.linspace(0.99, 0.03, steps + 1) ** 1.3  # steps of unequal length
    expected = run_literal_dpmpp_2m(toy, X, levels, NUMPY_SCALES[path])
    np.testing.assert_allclose(draw_image(toy, levels, "dpmpp_2m", path), expected, atol=1e-12)


@pytest.mark.parametrize("sampler", REFERENCE)
def test_samplers_draw_the_images_of_other_libraries(sampler):
    """See make_reference.py: UniPC and Heun of diffusers, and the others of k-diffusion."""
    table = SAMPLERS[sampler](make_reference.LEVELS, linear)
    _, image = run_table(table, toy, make_reference.X, make_reference.draw)
    np.testing.assert_allclose(image, REFERENCE[sampler], atol=2e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("schedule", [uniform, shifted, karras, log_snr])
def test_a_path_from_1_to_0_starts_and_ends_exactly(schedule, path, sampler):
    table = SAMPLERS[sampler](schedule(7, path), path)
    assert all(np.isfinite(column).all() for column in vars(table).values())
    assert table.levels[0] == 1
    # No row uses estimates from before the first.
    assert not np.triu(table.estimates[:3], 1).any()


def measure_drift(sampler, levels, path):
    """Return how far x is from the path alpha c + sigma z if every estimate is the constant c.

    x is u c + noise of variance v, for numbers u and v that follow from the table.
    """
    table = SAMPLERS[sampler](levels, PATHS[path])
    u, sigma = NUMPY_SCALES[path](table.levels[0])
    v, drift = sigma**2, 0.0
    for index, level in enumerate(np.append(table.levels[1:], levels[-1])):
        u = table.carry[index] * u + table.estimates[index].sum()
        v = table.carry[index] ** 2 * v + table.noise[index] ** 2
        alpha, sigma = NUMPY_SCALES[path](level)
        drift = max(drift, abs(u - alpha), abs(np.sqrt(v) - sigma))
    return drift


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", PATHS)
def test_x_stays_on_the_path_if_the_estimate_is_constant(path, sampler):
    """Inpainting relies on this. Euler's and Heun's slopes are constant on the linear path only."""
    levels = np.append(np.linspace(1.0, 0.1, 9) ** 1.3, 0.0)
    if path == "linear" or sampler not in ("euler", "heun"):
        assert measure_drift(sampler, levels, path) < 1e-9
    else:
        coarse, fine = (measure_drift(sampler, uniform(steps), path) for steps in (20, 200))
        assert fine < coarse / 9


def draw_random_table(rng, size):
    columns = rng.uniform(-1, 1, (6, size))
    return Table(rng.uniform(0.1, 1, size), columns[0], columns[1:4].T / 3, columns[4] ** 2)


def test_solve_follows_the_definition_of_the_table():
    table = draw_random_table(np.random.default_rng(2), 9)
    x, estimate = run_table(table, toy, X, NOISE.__getitem__)
    noise = tf.constant(NOISE, tf.float32)

    def denoise(x, level):
        return tf.tanh(1.5 * x + 0.2) * (1 - 0.5 * level) + 0.1 * level**2

    def run(x, history, *bounds):
        return solve(denoise, x, history, make_rows(table), lambda row: noise[row], *bounds)

    start = tf.constant(X, tf.float32)
    got, history = run(start, (tf.zeros_like(start),) * 3, 0, 9)
    np.testing.assert_allclose(got, x, atol=1e-5)
    np.testing.assert_allclose(history[0], estimate, atol=1e-5)
    # Segments continue where the one before ended.
    state = start, (tf.zeros_like(start),) * 3
    for bounds in ((0, 4), (4, 5), (5, 5), (5, 9)):
        state = run(*state, *bounds)
    np.testing.assert_allclose(state[0], got, atol=1e-6)


def test_a_loop_is_traced_once_for_all_tables_of_a_length():
    traces = []

    def denoise(x, level):
        traces.append(1)
        return x * level

    @tf.function
    def run(x, rows):
        return solve(denoise, x, (tf.zeros_like(x),) * 3, rows, None, 0, 30)[1][0]

    first = run(tf.ones((1, 2, 2, 1)), make_rows(SAMPLERS["ddim"](uniform(30), linear)))
    run(tf.zeros((1, 2, 2, 1)), make_rows(SAMPLERS["dpmpp_2m"](shifted(30), linear)))
    assert len(traces) == 1
    # Compute the steps by hand, with the denoised estimate x0 = n x.
    x, levels = 1.0, np.linspace(1, 0, 31)
    for n, m in pairwise(levels):
        x0 = n * x
        x = ((n - m) * x0 + m * x) / n
    np.testing.assert_allclose(first, np.full((1, 2, 2, 1), x0), rtol=1e-4)
