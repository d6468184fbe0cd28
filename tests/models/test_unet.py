"""Tests the modern U-Net against a second one, written in plain TensorFlow from this description:

- The stem is space-to-depth and a 3x3 convolution.
- Each resolution has `block_depth` residual blocks on the way down, which are modulated by
  swish(level + condition). If the resolution has attention, self- and cross-attention, each behind
  a norm, follow every block. The output of every block is a skip connection.
- On the coarsest grid, the modulation vector times two matrices is added, and one block follows.
- There are as many blocks on the way up as on the way down.
- A norm, swish, a 3x3 convolution that starts at zero, and depth-to-space end the network.
"""

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.models.unet import UNet

SIZE, CHANNELS, WIDTHS, DEPTH, ATTENDS, DIM = 8, 3, (8, 16), 2, (False, True), 12


def make_inputs(seed=0):
    rng = np.random.default_rng(seed)
    x, vector, sequence = (
        rng.standard_normal(shape).astype("float32")
        for shape in ((2, SIZE, SIZE, CHANNELS), (2, DIM), (2, 3, 10))
    )
    mask = np.array([[True, True, False], [True, False, False]])
    level = np.array([0.05, 0.6], "float32")
    return (
        tf.constant(x),
        tf.constant(level),
        {
            "vector": tf.constant(vector),
            "sequence": tf.constant(sequence),
            "attend_to": tf.constant(mask),
        },
    )


def build_randomized(patch_size, cross_attention=True):
    network = UNet(
        SIZE, CHANNELS, WIDTHS, DEPTH, ATTENDS, patch_size, DIM, cross_attention, name="unet"
    )
    x, level, condition = make_inputs()
    network(x, level, **condition)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        values = rng.standard_normal(weight.shape)
        if len(weight.shape) > 1:
            values /= np.sqrt(np.prod(weight.shape[:-1]))
        weight.assign(values)
    return network


class Literal:
    """Computes the same function from the same weights, which it finds by their paths."""

    def __init__(self, network, patch_size):
        self.patch_size = patch_size
        self.weights = {w.path.split("unet/", 1)[1]: tf.constant(w.value) for w in network.weights}
        self.unused = set(self.weights)

    def get(self, path):
        self.unused.discard(path)
        return self.weights[path]

    def dense(self, name, x, bias=True):
        return x @ self.get(f"{name}/kernel") + (self.get(f"{name}/bias") if bias else 0.0)

    def conv(self, name, x, stride=1):
        return tf.nn.conv2d(x, self.get(f"{name}/kernel"), stride, "SAME") + self.get(
            f"{name}/bias"
        )

    def norm(self, name, x):
        groups = {8: 2, 16: 4, 24: 2, 32: 8}[x.shape[-1]]
        grouped = tf.reshape(x, (*x.shape[:3], groups, -1))
        mean, variance = tf.nn.moments(grouped, (1, 2, 4), keepdims=True)
        x = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-5), x.shape)
        return x * self.get(f"{name}/gain") + self.get(f"{name}/bias")

    def attention(self, name, x, context, mask):
        def unit(x):
            return x / tf.sqrt(tf.reduce_mean(x**2, -1, keepdims=True) + 1e-6)

        query = unit(self.dense(f"{name}/query", x, bias=False)) * self.get(f"{name}/query_gain")
        key = unit(self.dense(f"{name}/key", context, bias=False)) * self.get(f"{name}/key_gain")
        logits = tf.einsum("btc,bsc->bts", query, key) / np.sqrt(16)  # one head of 16
        if mask is not None:
            logits = tf.where(mask[:, None], logits, -np.inf)
        value = self.dense(f"{name}/value", context, bias=False)
        return self.dense(f"{name}/out", tf.nn.softmax(logits) @ value)

    def block(self, name, x, vector, condition, width, attends):
        r = f"{name}/residual"
        scale, shift = tf.split(self.dense(f"{r}/modulation", vector)[:, None, None], 2, axis=-1)
        h = self.conv(f"{r}/conv1", tf.nn.silu(self.norm(f"{r}/norm1", x)))
        h = tf.nn.silu(self.norm(f"{r}/norm2", h) * (1 + scale) + shift)
        shortcut = x if x.shape[-1] == width else self.conv(f"{r}/shortcut", x)
        x = shortcut + self.conv(f"{r}/conv2", h)
        if attends:
            for index in range(2 if "sequence" in condition else 1):
                flat = tf.reshape(self.norm(f"{name}/norm{index}", x), (x.shape[0], -1, width))
                context, mask = (
                    (flat, None) if index == 0 else (condition["sequence"], condition["attend_to"])
                )
                mixed = self.attention(f"{name}/attention{index}", flat, context, mask)
                x += tf.reshape(mixed, x.shape)
        return x

    def __call__(self, x, level, condition):
        frequencies = np.exp(np.linspace(0, np.log(1000), 32)).astype("float32")
        angles = 2 * np.pi * level[:, None] * frequencies
        waves = tf.concat([tf.sin(angles), tf.cos(angles)], -1)
        hidden = tf.nn.silu(self.dense("noise_level_embedding/hidden", waves))
        vector = tf.nn.silu(self.dense("noise_level_embedding/out", hidden) + condition["vector"])
        if self.patch_size > 1:
            x = tf.nn.space_to_depth(x, self.patch_size)
        x = self.conv("stem", x)

        def block(name, x, level):
            return self.block(name, x, vector, condition, WIDTHS[level], ATTENDS[level])

        s1 = block("down0_0", x, 0)
        s2 = block("down0_1", s1, 0)
        s3 = block("down1_0", self.conv("downsample1/conv", s2, stride=2), 1)
        s4 = block("down1_1", s3, 1)
        layout = self.dense("layout/grid", self.dense("layout/numbers", vector))
        x = block("middle", s4 + tf.reshape(layout, s4.shape), 1)
        for index, skip in enumerate((s4, s3)):
            x = block(f"up1_{index}", tf.concat([x, skip], -1), 1)
        x = tf.nn.depth_to_space(self.conv("upsample1/conv", x), 2)
        for index, skip in enumerate((s2, s1)):
            x = block(f"up0_{index}", tf.concat([x, skip], -1), 0)
        x = self.conv("head", tf.nn.silu(self.norm("norm", x)))
        return tf.nn.depth_to_space(x, self.patch_size) if self.patch_size > 1 else x


@pytest.mark.parametrize(("patch_size", "cross_attention"), [(1, True), (2, True), (2, False)])
def test_the_literal_network_agrees_and_uses_every_weight(patch_size, cross_attention):
    network = build_randomized(patch_size, cross_attention)
    x, level, condition = make_inputs()
    if not cross_attention:
        condition = {"vector": condition["vector"]}
    literal = Literal(network, patch_size)
    expected = literal(x, level, condition)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(network(x, level, **condition)[0], expected, atol=1e-3, rtol=1e-3)
    assert not literal.unused


def test_the_initial_output_is_zero():
    network = UNet(SIZE, CHANNELS, WIDTHS, DEPTH, ATTENDS, 2, DIM, cross_attention=False)
    x, level, condition = make_inputs()
    output, _ = network(x, level, condition["vector"])
    assert output.shape == x.shape
    assert not np.any(output)


def test_a_masked_token_changes_nothing():
    network = build_randomized(2)
    x, level, condition = make_inputs()
    sequence = tf.where(condition["attend_to"][..., None], condition["sequence"], 9.0)
    before = network(x, level, **condition)[0]
    masked = network(x, level, **condition | {"sequence": sequence})[0]
    np.testing.assert_array_equal(masked, before)
    changed = condition | {"sequence": condition["sequence"] + 1.0}
    assert np.abs(network(x, level, **changed)[0] - before).max() > 1e-3


def test_mixed_precision_keeps_the_level(monkeypatch):
    """In bfloat16, the levels 0.5 and 0.501 would be equal."""
    seen = []
    network = UNet(SIZE, CHANNELS, WIDTHS, DEPTH, ATTENDS, 2, DIM, False, dtype="mixed_bfloat16")
    call = network.noise_level_embedding.call
    monkeypatch.setattr(
        network.noise_level_embedding, "call", lambda level: (seen.append(level), call(level))[1]
    )
    x, _, condition = make_inputs()
    network(x, tf.constant([0.5, 0.501]), condition["vector"])
    assert {level.dtype for level in seen} == {tf.float32}
    assert seen[-1][0] != seen[-1][1]
