"""Tests the building blocks against layers of Keras and TensorFlow and against numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.models import blocks
from t2i_tpu.models.blocks import (
    Downsample,
    GroupNorm,
    NoiseLevelEmbedding,
    ResidualBlock,
    Upsample,
    depth_to_space,
    sinusoids,
    space_to_depth,
)


def draw_noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def randomize(layer, seed=0):
    """Draw every weight, because a zero would hide the layers before it."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)


def compute_group_norm(x, groups, gain, bias):
    norm = keras.layers.GroupNormalization(groups, epsilon=1e-5)
    norm.build(x.shape)
    norm.gamma.assign(gain)
    norm.beta.assign(bias)
    return np.asarray(norm(x))


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (96, 8), (48, 4), (8, 2), (6, 1), (3, 1)]
)
def test_group_norm_is_keras_group_normalization(channels, groups):
    layer, x = GroupNorm(channels), draw_noise(2, 5, 3, channels) * 3 + 1
    layer(x)
    randomize(layer)
    assert layer.groups == groups  # as many groups of at least four channels as possible
    expected = compute_group_norm(x, groups, layer.gain, layer.bias)
    np.testing.assert_allclose(layer(x), expected, atol=2e-5)


def test_group_norm_is_scaled_and_shifted_by_the_condition():
    layer, x = GroupNorm(16), draw_noise(2, 4, 4, 16)
    scale, shift = draw_noise(2, 16, seed=1), draw_noise(2, 16, seed=2)
    layer(x)
    randomize(layer)
    plain = compute_group_norm(x, 4, layer.gain, layer.bias)
    expected = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(layer(x, scale, shift), expected, atol=2e-5)


def test_group_norm_of_an_image_does_not_depend_on_its_batch():
    layer, x = GroupNorm(8), draw_noise(3, 4, 4, 8)
    np.testing.assert_allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_space_to_depth_is_tensorflows(size):
    x = draw_noise(2, 8, 4, 3)
    expected = tf.nn.space_to_depth(x, size) if size > 1 else x
    np.testing.assert_array_equal(space_to_depth(x, size), expected)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, size), size), x)


def test_sinusoids_follow_the_formula():
    levels = np.array([0.0, 0.1234, 0.5, 1.0])
    got = np.asarray(sinusoids(tf.constant(levels, tf.float32), 16))
    frequencies = np.exp(np.linspace(np.log(1), np.log(1000), 16))
    angles = 2 * np.pi * frequencies * levels[:, None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(got, expected, atol=2e-3)  # float32 represents 6283 to within 5e-4


def test_noise_level_embedding_reads_the_level_in_float32(monkeypatch):
    """Keras casts a layer's inputs to its compute dtype, and in bfloat16 0.501 would be 0.5."""
    seen = []
    monkeypatch.setattr(
        blocks, "sinusoids", lambda level, count: (seen.append(level), sinusoids(level, count))[1]
    )
    layer = NoiseLevelEmbedding(8, dtype="mixed_bfloat16")
    layer(tf.constant([0.501]))
    assert {level.dtype for level in seen} == {tf.float32}
    assert float(seen[-1][0]) == np.float32(0.501)


def test_noise_level_embedding_is_two_dense_layers():
    layer, levels = NoiseLevelEmbedding(8), tf.constant([0.0, 0.01, 0.7])
    layer(levels)
    randomize(layer)
    w1, b1, w2, b2 = (np.asarray(weight) for weight in layer.weights)
    hidden = np.asarray(sinusoids(levels, 32)) @ w1 + b1
    expected = hidden / (1 + np.exp(-hidden)) @ w2 + b2
    np.testing.assert_allclose(layer(levels), expected, atol=1e-4)


@pytest.mark.parametrize(("input_width", "width"), [(8, 16), (16, 16)])
def test_residual_block_follows_the_formula(input_width, width):
    layer = ResidualBlock(input_width, width)
    x, condition = draw_noise(2, 4, 4, input_width), draw_noise(2, 5, seed=1)
    layer(x, condition)
    randomize(layer)

    def convolve(x, conv):
        return tf.nn.conv2d(x, conv.kernel, 1, "SAME") + conv.bias

    h = compute_group_norm(x, layer.norm1.groups, layer.norm1.gain, layer.norm1.bias)
    h = convolve(tf.nn.silu(h), layer.conv1)
    h = compute_group_norm(h, layer.norm2.groups, layer.norm2.gain, layer.norm2.bias)
    modulation = (condition @ layer.modulation.kernel + layer.modulation.bias)[:, None, None]
    h = h * (1 + modulation[..., :width]) + modulation[..., width:]
    h = convolve(tf.nn.silu(h), layer.conv2)
    shortcut = x if input_width == width else convolve(x, layer.shortcut)
    np.testing.assert_allclose(layer(x, condition), h + shortcut, atol=1e-4)


def test_residual_block_starts_as_the_identity():
    x = draw_noise(2, 4, 4, 8)
    np.testing.assert_array_equal(ResidualBlock(8, 8)(x, draw_noise(2, 5)), x)


def test_downsample_multiplies_each_2x2_block_with_one_matrix():
    layer, x = Downsample(5), draw_noise(2, 4, 6, 3)
    layer(x)
    randomize(layer)
    matrix = np.asarray(layer.conv.kernel).reshape(12, 5)
    expected = np.asarray(tf.nn.space_to_depth(x, 2)) @ matrix + np.asarray(layer.conv.bias)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_upsample_gives_each_pixel_a_2x2_block():
    layer, x = Upsample(5), draw_noise(2, 2, 3, 4)
    layer(x)
    randomize(layer)
    block = x @ np.asarray(layer.conv.kernel)[0, 0] + np.asarray(layer.conv.bias)
    np.testing.assert_allclose(layer(x), tf.nn.depth_to_space(block, 2), atol=1e-5)
