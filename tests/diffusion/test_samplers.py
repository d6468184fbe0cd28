"""Tests samplers against literal loops in numpy and against a trajectory in closed form."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.path import PATHS, linear
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.table import solve
from t2i_tpu.diffusion.schedules import LEVELS, baseline, karras, log_snr, shifted, uniform

X = np.random.default_rng(0).standard_normal((2, 2, 2, 1))
NUMPY_SCALES = {
    "linear": lambda n: (1 - n, n),
    "cosine": lambda n: (np.cos(n * np.pi / 2), np.sin(n * np.pi / 2)),
}


def run_sampler(denoise, levels, sampler, path, x=X, draw=None):
    """Return the image that a sampler draws."""
    table = SAMPLERS[sampler](np.asarray(levels, np.float64), PATHS[path])
    rows = {name: tf.constant(column) for name, column in table.as_arrays().items()}
    x = tf.constant(x, tf.float32)
    _, history = solve(denoise, x, (tf.zeros_like(x),) * 3, rows, draw, 0, len(table.levels))
    return np.asarray(history[0], "float64")


class Gaussian:
    """The ideal denoiser of pixels distributed as N(mean, std**2), which is linear in x.

    The probability flow keeps (x - alpha mean) / sqrt(alpha**2 std**2 + sigma**2) constant.
    """

    mean, std = 0.3, 0.4

    def __init__(self, path):
        self.scales = NUMPY_SCALES[path]

    def numpy(self, x, level):
        alpha, sigma = self.scales(level)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)

    def __call__(self, x, level):
        """Return the same as `numpy`, for tensors."""
        alpha, sigma = (1 - level, level)
        if self.scales is NUMPY_SCALES["cosine"]:
            alpha, sigma = tf.cos(level * np.pi / 2), tf.sin(level * np.pi / 2)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)

    def exact(self, x, start, end):
        """Return x after following the flow from level `start` to level `end`."""
        (a, s), (b, t) = self.scales(start), self.scales(end)
        share = (x - a * self.mean) / np.sqrt(a**2 * self.std**2 + s**2)
        return b * self.mean + share * np.sqrt(b**2 * self.std**2 + t**2)


def toy(x, level):
    """Return the estimate of a denoiser that is linear in neither argument."""
    return tf.tanh(1.5 * x + 0.2) * (1 - 0.5 * level) + 0.1 * level**2


def numpy_toy(x, level):
    return np.tanh(1.5 * x + 0.2) * (1 - 0.5 * level) + 0.1 * level**2


def test_ddim_is_the_baselines_loop():
    levels = baseline(35)
    x = X.copy()
    for n, m in pairwise(levels):
        x0 = numpy_toy(x, n)
        x = ((n - m) * x0 + m * x) / n
    np.testing.assert_allclose(run_sampler(toy, levels, "ddim", "linear"), x0, atol=2e-6)


def test_ddim_keeps_the_noise_on_the_cosine_path():
    """The literal loop is Song et al., 2020, equation 12 with sigma = 0."""
    levels = np.linspace(0.98, 0.02, 9)
    x = X.copy()
    for n, m in pairwise(levels):
        x0 = numpy_toy(x, n)
        z = (x - np.cos(n * np.pi / 2) * x0) / np.sin(n * np.pi / 2)
        x = np.cos(m * np.pi / 2) * x0 + np.sin(m * np.pi / 2) * z
    np.testing.assert_allclose(run_sampler(toy, levels, "ddim", "cosine"), x0, atol=2e-6)


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
    expected = run_literal_dpmpp_2m(numpy_toy, X, levels, NUMPY_SCALES[path])
    np.testing.assert_allclose(run_sampler(toy, levels, "dpmpp_2m", path), expected, atol=3e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_samplers_converge_with_their_order(sampler, order, path):
    problem = Gaussian(path)
    errors = []
    for steps in (32, 64, 128):
        levels = np.append(np.linspace(0.9, 0.1, steps + 1), 0.0)  # the last estimate is at 0.1
        expected = problem.numpy(problem.exact(X, 0.9, 0.1), 0.1)
        errors.append(np.abs(run_sampler(problem, levels, sampler, path) - expected).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, rtol=0.1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("levels", ["uniform", "shifted"])
def test_the_full_path_ends_near_the_exact_image(levels, path):
    problem = Gaussian(path)
    expected = problem.exact(X, 1.0, 0.0)
    errors = {
        sampler: np.abs(
            run_sampler(problem, LEVELS[levels](40, PATHS[path], 2.0), sampler, path) - expected
        ).max()
        for sampler in ("ddim", "dpmpp_2m")
    }
    assert errors["dpmpp_2m"] < 0.01
    assert errors["dpmpp_2m"] < errors["ddim"] < 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", PATHS.values())
@pytest.mark.parametrize("schedule", [uniform, shifted, karras, log_snr])
def test_a_path_from_1_to_0_starts_and_ends_exactly(schedule, path, sampler):
    table = SAMPLERS[sampler](schedule(7, path), path)
    assert all(np.isfinite(column).all() for column in vars(table).values())
    assert table.levels[0] == 1
    # No row uses estimates from before the first.
    assert not np.triu(table.estimates[:3], 1).any()


def test_a_loop_of_many_steps_is_traced_once():
    traces = []

    def denoise(x, level):
        traces.append(1)
        return x * level

    @tf.function
    def run(x, rows):
        return solve(denoise, x, (tf.zeros_like(x),) * 3, rows, None, 0, 30)[1][0]

    rows = SAMPLERS["ddim"](uniform(30), linear).as_arrays()
    rows = {name: tf.constant(column) for name, column in rows.items()}
    first = run(tf.ones((1, 2, 2, 1)), rows)
    other = SAMPLERS["dpmpp_2m"](shifted(30), linear).as_arrays()
    run(tf.zeros((1, 2, 2, 1)), {name: tf.constant(column) for name, column in other.items()})
    assert len(traces) == 1
    # Compute the steps by hand, with the denoised estimate x0 = n x.
    x, levels = 1.0, np.linspace(1, 0, 31)
    for n, m in pairwise(levels):
        x0 = n * x
        x = ((n - m) * x0 + m * x) / n
    np.testing.assert_allclose(first, np.full((1, 2, 2, 1), x0), rtol=1e-4)
