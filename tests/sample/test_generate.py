"""Tests generation against literal loops in numpy, with toy denoisers in closed form."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.config import Config, SampleConfig, resolve
from t2i_tpu.diffusion.path import linear
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.sample.generate import draw_noise, generate, to_uint8

NOISE = np.random.default_rng(0).standard_normal((3, 4, 4, 2))
CONDITION = np.array([[1.5, -0.5], [0.0, 2.0], [-1.0, -1.0]])


def numpy_toy(x, level, condition):
    return np.tanh(x * (2 - level) + condition[:, None, None, :]) * 1.5


class Toy:
    """Stands in for a Denoiser; counts how often Python calls it."""

    diffusion_path = staticmethod(linear)

    def __init__(self):
        self.calls = 0

    def denoise(self, x, noise_level, condition):
        self.calls += 1
        level = noise_level[:, None, None, None]
        return tf.tanh(x * (2 - level) + condition["toy"][:, None, None, :]) * 1.5


def draw(sample, toy=None, **compiled):
    @tf.function(**compiled)
    def run(values, noise):
        return generate(toy or Toy(), {"toy": values}, noise, tf.range(3), sample)

    return np.asarray(run(tf.constant(CONDITION, tf.float32), tf.constant(NOISE, tf.float32)))


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
    assert sample == SampleConfig("ddim", "baseline", 2.0, 35, 3.0, 99.5)
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
    got = draw(SampleConfig("ddim", "uniform", 2.0, 12, guidance_scale, 0.0))
    np.testing.assert_allclose(got, x, atol=1e-4)


class Gaussian(Toy):
    """The ideal denoiser of data that is N(0.2 condition, 0.15**2) at each pixel."""

    def denoise(self, x, noise_level, condition):
        sigma = noise_level[:, None, None, None]
        mean, alpha, variance = 0.2 * condition["toy"][:, None, None, :], 1 - sigma, 0.15**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize(("sampler", "tolerance"), [("ddim", 0.04), ("dpmpp_2m", 0.004)])
def test_the_result_is_the_end_of_the_flow_in_closed_form(sampler, tolerance):
    """The flow takes the noise z to mean + std z."""
    got = draw(SampleConfig(sampler, "shifted", 2.0, 80, 1.0, 0.0), Gaussian())
    expected = 0.2 * CONDITION[:, None, None, :] + 0.15 * NOISE
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_no_python_runs_per_step():
    toy = Toy()
    draw(SampleConfig("dpmpp_2m", "shifted", 2.0, 50, 2.0, 99.5), toy)
    assert toy.calls == 1


@pytest.mark.host_xla
def test_generate_compiles_with_xla():
    sample = SampleConfig("ddim", "baseline", 2.0, 10, 3.0, 99.5)
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


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    config = Config()
    config.data.image_size, config.sample.steps = 4, 3
    config.model.widths, config.model.attention_levels = (8, 8), (False, True)
    config.model.block_depth = config.model.patch_size = 1
    config.model.conditioning = "label"
    config = resolve(config)
    spec = ConditionSpec({"label": ((), "int32")}, num_ids=4)
    denoiser = build_denoiser(config, 3, spec, "float32")
    rng = np.random.default_rng(0)
    for weight in denoiser.trainable_variables:
        weight.assign(rng.standard_normal(weight.shape) * 0.2)

    def draw_images(labels, seeds):
        noise = draw_noise(np.array(seeds), denoiser.image_shape)
        condition = {"label": tf.constant(labels)}
        return np.asarray(generate(denoiser, condition, noise, np.array(seeds), config.sample))

    together, others = draw_images([1, 3, 2], [5, 6, 7]), draw_images([4, 3, 4], [1, 6, 0])
    assert together.std() > 0.05
    np.testing.assert_allclose(together[1], others[1], atol=1e-5)
    assert np.abs(together[0] - others[0]).max() > 1e-2


def test_to_uint8_rounds_and_clips():
    images = tf.constant([-1.5, -1.0, -0.998, 0.0, 0.5, 1.0, 3.0])
    # (x + 1) * 127.5 is rounded, with halves to even: 127.5 to 128, and 191.25 to 191.
    assert np.asarray(to_uint8(images)).tolist() == [0, 0, 0, 128, 191, 255, 255]
    levels = np.arange(256)
    np.testing.assert_array_equal(to_uint8(tf.constant(levels / 127.5 - 1, tf.float32)), levels)
