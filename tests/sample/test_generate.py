"""Tests generation against literal loops in numpy, with toy denoisers in closed form."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.config import Config, SampleConfig, resolve
from t2i_tpu.diffusion.path import linear
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.schedules import LEVELS
from t2i_tpu.sample.generate import draw_noise, generate, make_plan
from t2i_tpu.sample.generator import to_uint8

NOISE = np.random.default_rng(0).standard_normal((3, 4, 4, 2))
CONDITION = np.array([[1.5, -0.5], [0.0, 2.0], [-1.0, -1.0]])


def numpy_toy(x, level, condition):
    return np.tanh(x * (2 - level) + condition[:, None, None, :]) * 1.5


class Toy:
    """Stands in for a Denoiser; counts how often Python calls it."""

    def __init__(self):
        self.calls = 0

    def denoise_encoded(self, x, noise_level, encoded):
        self.calls += 1
        level = noise_level[:, None, None, None]
        return tf.tanh(x * (2 - level) + encoded["vector"][:, None, None, :]) * 1.5


def make_sample(sampler, levels, steps, guidance_scale, percentile):
    sample = resolve(Config()).sample
    sample.sampler, sample.levels, sample.steps = sampler, levels, steps
    sample.guidance_scale, sample.threshold_percentile = guidance_scale, percentile
    sample.guidance_interval = (0.0, 1.0)
    return sample


def draw(
    sample, toy=None, known=None, is_known=None, prompts=(CONDITION,), scales=None, **compiled
):
    """Return the images of `generate`, and "ends"."""
    table = SAMPLERS[sample.sampler](
        LEVELS[sample.levels](sample.steps, linear, sample.shift), linear
    )
    scales = np.full((3, 1), sample.guidance_scale) if scales is None else np.array(scales)
    plan = make_plan(
        table, sample, is_guided=bool((scales.sum(axis=1) != 1).any()), num_prompts=len(prompts)
    )
    conditions = [
        *prompts,
        *[np.zeros_like(CONDITION)] * any(guided for _, guided in plan.segments),
    ]
    inputs = {
        "start": NOISE,
        "conditions": {"vector": np.stack(conditions, axis=1)},
        "scales": scales,
        "known": np.zeros_like(NOISE) if known is None else known,
        "is_known": np.zeros((3, 4, 4, 1)) if is_known is None else is_known,
    }

    @tf.function(**compiled)
    def run(inputs, table):
        return generate(
            (toy or Toy()).denoise_encoded, None, inputs | {"seeds": tf.range(3)}, table, plan
        )

    tensors = tf.nest.map_structure(
        lambda array: tf.constant(array, tf.float32), (inputs, table.as_arrays())
    )
    return np.asarray(run(*tensors)["images"])


def run_literal_baseline(guidance_scale, percentile, steps):
    """Return the images of the baseline's sampler, but with one percentile for each image."""
    levels = 1 - np.power(np.arange(0.0001, 0.99, 1 / steps), 1 / 3)
    levels[-1] = 0.01
    x, null = NOISE.copy(), np.zeros_like(CONDITION)
    for n, n_next in pairwise(levels):
        conditional, unconditional = numpy_toy(x, n, CONDITION), numpy_toy(x, n, null)
        x0 = guidance_scale * conditional + (1 - guidance_scale) * unconditional
        for image in x0:
            s = max(1.0, np.percentile(np.abs(image), percentile))
            image[:] = np.clip(image, -s, s) / s
        x = ((n - n_next) * x0 + n_next * x) / n
    return x0


@pytest.mark.parametrize("steps", [35, 10])
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0, 0.0])
def test_the_baselines_sampler_equals_a_literal_loop(guidance_scale, steps):
    sample = resolve(Config(recipe="baseline")).sample
    assert sample == SampleConfig("ddim", "baseline", 2.0, 35, 3.0, (0.0, 1.0), 0.0, 99.5)
    sample.guidance_scale, sample.steps = guidance_scale, steps
    expected = run_literal_baseline(guidance_scale, 99.5, steps)
    np.testing.assert_allclose(draw(sample), expected, atol=2e-4)


@pytest.mark.parametrize("guidance_scale", [2.0, 1.0])
def test_clipping_at_uniform_levels_equals_a_literal_loop(guidance_scale):
    x, null = NOISE.copy(), np.zeros_like(CONDITION)
    for index in range(12):
        n, n_next = 1 - index / 12, 1 - (index + 1) / 12
        x0 = guidance_scale * numpy_toy(x, n, CONDITION)
        x0 = np.clip(x0 + (1 - guidance_scale) * numpy_toy(x, n, null), -1, 1)
        x = ((n - n_next) * x0 + n_next * x) / n
    got = draw(make_sample("ddim", "uniform", 12, guidance_scale, 0.0))
    np.testing.assert_allclose(got, x, atol=1e-4)


class Gaussian(Toy):
    """The ideal denoiser of data that is N(0.2 condition, 0.15**2) at each pixel."""

    def denoise_encoded(self, x, noise_level, encoded):
        sigma = noise_level[:, None, None, None]
        mean, alpha, variance = 0.2 * encoded["vector"][:, None, None, :], 1 - sigma, 0.15**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize(("sampler", "tolerance"), [("ddim", 0.04), ("dpmpp_2m", 0.004)])
def test_the_result_is_the_end_of_the_flow_in_closed_form(sampler, tolerance):
    """The flow takes the noise z to mean + std z."""
    got = draw(make_sample(sampler, "shifted", 80, 1.0, 0.0), Gaussian())
    expected = 0.2 * CONDITION[:, None, None, :] + 0.15 * NOISE
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_no_python_runs_per_step():
    toy = Toy()
    draw(make_sample("dpmpp_2m", "shifted", 50, 2.0, 99.5), toy)
    assert toy.calls == 1


@pytest.mark.host_xla
def test_generate_compiles_with_xla():
    sample = make_sample("ddim", "baseline", 10, 3.0, 99.5)
    np.testing.assert_allclose(
        draw(sample, jit_compile=True), run_literal_baseline(3.0, 99.5, 10), atol=2e-4
    )


def test_a_seeds_noise_does_not_depend_on_its_batch():
    seeds = np.array([7, 2**31, 9, 0, 1])
    together = np.asarray(draw_noise(seeds, (3, 3, 1)))
    for index in range(len(seeds)):
        alone = np.asarray(draw_noise(seeds[index : index + 1], (3, 3, 1)))
        np.testing.assert_array_equal(together[index : index + 1], alone)
    assert np.abs(together[0] - together[1]).min() > 0


def test_to_uint8_rounds_and_clips():
    images = np.array([-1.5, -1.0, -0.998, 0.0, 0.5, 1.0, 3.0], np.float32)
    # (x + 1) * 127.5 is rounded, with halves to even: 127.5 to 128, and 191.25 to 191.
    assert to_uint8(images).tolist() == [0, 0, 0, 128, 191, 255, 255]
    levels = np.arange(256)
    np.testing.assert_array_equal(to_uint8(np.float32(levels / 127.5 - 1)), levels)
