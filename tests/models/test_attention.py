"""Tests attention against a literal computation in numpy float64 and against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.models.attention import Attention, rms_norm


def draw_noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def build_randomized(width, *inputs):
    layer = Attention(width)
    layer(*inputs)
    rng = np.random.default_rng(9)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)
    return layer


def normalize(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))


def compute_literally(layer, x, context, attend_to=None):
    """Compute the attention of one head and one query at a time."""
    x, context = x.astype("float64"), context.astype("float64")
    w = {
        name: np.asarray(getattr(layer, name).kernel, "float64")
        for name in ("query", "key", "value", "out")
    }
    size, heads = layer.head_dim, layer.heads
    out = np.zeros((*x.shape[:2], heads * size))
    for b in range(len(x)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            keys = normalize((context[b] @ w["key"])[:, part]) * np.asarray(layer.key_gain)
            values = (context[b] @ w["value"])[:, part]
            queries = normalize((x[b] @ w["query"])[:, part]) * np.asarray(layer.query_gain)
            for t, query in enumerate(queries):
                score = np.exp(keys @ query / np.sqrt(size))
                if attend_to is not None:
                    score = score * attend_to[b]
                out[b, t, part] = score / score.sum() @ values
    return out @ w["out"] + np.asarray(layer.out.bias)


@pytest.mark.parametrize(("width", "heads", "head_dim"), [(16, 1, 16), (96, 1, 64), (128, 2, 64)])
def test_self_attention_equals_the_literal_computation(width, heads, head_dim):
    x = draw_noise(2, 5, width)
    layer = build_randomized(width, x)
    assert (layer.heads, layer.head_dim) == (heads, head_dim)
    np.testing.assert_allclose(layer(x), compute_literally(layer, x, x), atol=2e-4)


def test_cross_attention_ignores_masked_positions():
    x, context = draw_noise(2, 3, 16), draw_noise(2, 4, 12, seed=1)
    attend_to = np.array([[True, True, False, True], [True, False, False, False]])
    layer = build_randomized(16, x, context)
    got = np.asarray(layer(x, context, attend_to=tf.constant(attend_to)))
    np.testing.assert_allclose(got, compute_literally(layer, x, context, attend_to), atol=2e-4)
    context[~attend_to] = 7.0
    np.testing.assert_array_equal(layer(x, context, attend_to=tf.constant(attend_to)), got)


def test_attention_is_keras_attention_of_normalized_queries_and_keys():
    x = draw_noise(2, 6, 128)
    layer = build_randomized(128, x)

    def project_to_heads(weight):
        return (x @ np.asarray(weight.kernel)).reshape(2, 6, 2, 64)

    query = normalize(project_to_heads(layer.query)) * np.asarray(layer.query_gain)
    key = normalize(project_to_heads(layer.key)) * np.asarray(layer.key_gain)
    mixed = keras.ops.dot_product_attention(query, key, project_to_heads(layer.value))
    expected = np.reshape(mixed, (2, 6, 128)) @ np.asarray(layer.out.kernel) + layer.out.bias
    np.testing.assert_allclose(layer(x), expected, atol=2e-4)


def test_the_initial_output_is_zero():
    assert not np.any(Attention(16)(draw_noise(2, 5, 16)))


def test_rms_norm_matches_hand_computed_values():
    x = tf.constant([[3.0, 4.0], [0.0, 0.0], [-300.0, 400.0]])
    root = np.sqrt(12.5)  # the root of (9 + 16) / 2
    np.testing.assert_allclose(
        rms_norm(x), [[3 / root, 4 / root], [0, 0], [-3 / root, 4 / root]], rtol=1e-6
    )


def test_rms_norm_squares_in_float32():
    """The square of 60,000 exceeds the range of float16."""
    x = rms_norm(tf.constant([[60_000.0, 0.0]], tf.float16))
    assert x.dtype == tf.float16
    np.testing.assert_allclose(x, [[np.sqrt(2), 0]], rtol=2e-3)
