"""Tests the conditioners: formulas, dropped conditions, normalization and padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.models.conditioning import (
    EmbeddingConditioner,
    EmbeddingProjection,
    LabelConditioner,
    SequenceConditioner,
    TokenConditioner,
    drop_conditions,
)

TOKENS = np.array([[5, 3, 7, 0, 0, 0], [2, 0, 0, 0, 0, 0]], "int32")


def randomize(layer, seed=0):
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)


@pytest.fixture
def token_conditioner():
    layer = TokenConditioner(vocab_size=11, length=6, dim=16)
    layer(TOKENS)
    randomize(layer)
    return layer


@pytest.mark.parametrize(
    "condition",
    [np.ones((3, 4), "float32"), np.array([4, 1, 9], "int32"), np.full((3, 5), 8, "int32")],
    ids=["embedding", "label", "tokens"],
)
def test_dropped_conditions_are_zero(condition):
    dropped = np.asarray(
        drop_conditions({"field": tf.constant(condition)}, tf.constant([True, False, True]))[
            "field"
        ]
    )
    assert dropped.dtype == condition.dtype
    np.testing.assert_array_equal(dropped[[0, 2]], condition[[0, 2]])
    assert not dropped[1].any()


def test_embedding_conditioner_follows_the_formula():
    layer, embedding = EmbeddingConditioner(5), np.array([[3.0, 4.0], [0.0, 0.0]], "float32")
    layer(embedding)
    randomize(layer)
    weights = {weight.path.rsplit("/", 1)[-1]: np.asarray(weight) for weight in layer.weights}
    unit = embedding / np.sqrt(12.5)
    angles = unit @ weights["frequencies"]
    read = np.concatenate([unit, np.sqrt(2) * np.sin(angles), np.sqrt(2) * np.cos(angles)], -1)
    expected = read @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(layer(embedding)["vector"], expected, atol=1e-4)
    # The length does not matter, so a data set may hold unnormalized embeddings.
    np.testing.assert_allclose(
        layer(embedding * 0.2)["vector"], layer(embedding)["vector"], atol=1e-3
    )


def test_the_fourier_features_approximate_a_gaussian_kernel():
    rng = np.random.default_rng(0)
    layer = EmbeddingConditioner(5)
    points = rng.standard_normal((40, 128)).astype("float32")
    points[1:] = points[0] + points[1:] * np.linspace(0.02, 1.5, 39, dtype="float32")[:, None]
    layer(points)
    assert [weight.path.rsplit("/", 1)[-1] for weight in layer.non_trainable_weights] == [
        "frequencies"
    ]
    unit = points / np.linalg.norm(points, axis=-1, keepdims=True)
    angles = unit * 128**0.5 @ np.asarray(layer.frequencies)
    kernel = np.mean(np.cos(angles[:1] - angles), -1)  # sin sin + cos cos, averaged
    distance = np.linalg.norm(unit[:1] - unit, axis=-1)
    np.testing.assert_allclose(kernel, np.exp(-(distance**2) / (2 * 0.5**2)), atol=0.15)


def test_the_baseline_projects_the_embedding_unchanged():
    layer, embedding = EmbeddingProjection(5), np.array([[3.0, 4.0]], "float32")
    layer(embedding)
    randomize(layer)
    kernel, bias = (np.asarray(weight) for weight in layer.weights)
    np.testing.assert_allclose(layer(embedding)["vector"], embedding @ kernel + bias, atol=1e-5)


def test_a_label_is_a_row_of_the_table():
    layer = LabelConditioner(num_classes=3, dim=4)
    got = np.asarray(layer(np.array([0, 3, 1], "int32"))["vector"])
    (table,) = layer.weights
    assert table.shape == (4, 4)
    np.testing.assert_array_equal(got, np.asarray(table)[[0, 3, 1]])


def test_the_mask_is_true_for_real_tokens(token_conditioner):
    condition = token_conditioner(TOKENS)
    np.testing.assert_array_equal(condition["attend_to"], TOKENS > 0)
    assert condition["sequence"].shape == (2, 6, 16)


def test_a_padding_token_changes_nothing(token_conditioner):
    before = token_conditioner(TOKENS)
    rows = np.asarray(token_conditioner.table.embeddings).copy()
    rows[0] += 5.0
    token_conditioner.table.embeddings.assign(rows)
    after = token_conditioner(TOKENS)
    np.testing.assert_array_equal(after["vector"], before["vector"])
    mask = TOKENS > 0
    np.testing.assert_array_equal(after["sequence"].numpy()[mask], before["sequence"].numpy()[mask])
    # The amount of padding does not matter either.
    np.testing.assert_allclose(
        token_conditioner(TOKENS[:, :4])["vector"], before["vector"], atol=1e-6
    )


@pytest.fixture
def sequence_conditioner():
    """A layer for embeddings of width 3 and 4 states of width 2, and two conditions.

    The conditions have 4 and 2 tokens.
    """
    layer = SequenceConditioner(dim=16)
    rng = np.random.default_rng(1)
    states = rng.standard_normal((2, 4, 2)).astype("float32")
    states[1, 2:] = 0
    embeddings = rng.standard_normal((2, 3)).astype("float32")
    condition = {"embedding": embeddings, "sequence": states}
    layer(**condition)
    randomize(layer)
    return layer, condition, embeddings, states


def test_sequence_conditioner_follows_the_formula(sequence_conditioner):
    layer, condition, embeddings, states = sequence_conditioner
    got = layer(**condition)
    np.testing.assert_array_equal(got["vector"], layer.pooled(embeddings)["vector"])
    np.testing.assert_array_equal(got["attend_to"], [[True] * 4, [True, True, False, False]])
    kernel, bias = (np.asarray(weight) for weight in layer.project.weights)
    unit = states / np.sqrt(np.mean(states**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got["sequence"], unit @ kernel + bias, atol=1e-5)


def test_a_dropped_sequence_has_no_tokens(sequence_conditioner):
    layer, condition, *_ = sequence_conditioner
    dropped = layer(**drop_conditions(condition, tf.constant([False, True])))
    np.testing.assert_array_equal(dropped["attend_to"][0], [False] * 4)
    null = layer.pooled(np.zeros((1, 3), "float32"))["vector"][0]
    np.testing.assert_allclose(dropped["vector"][0], null, atol=1e-6)
    assert np.isfinite(dropped["sequence"]).all()
    np.testing.assert_allclose(dropped["vector"][1], layer(**condition)["vector"][1], atol=1e-6)


def test_words_and_their_order_matter(token_conditioner):
    base, swapped, other = ([[5, 3, 7, 0, 0, 0]], [[3, 5, 7, 0, 0, 0]], [[5, 3, 8, 0, 0, 0]])
    vectors = [
        token_conditioner(np.array(row, "int32"))["vector"] for row in (base, swapped, other)
    ]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_the_null_prompts_vector_is_zero(token_conditioner):
    condition = token_conditioner(np.zeros((2, 6), "int32"))
    assert not np.any(condition["vector"])
    assert np.isfinite(condition["sequence"]).all()


def test_a_prompt_is_the_mean_of_its_tokens(token_conditioner):
    """If the transformer's blocks add nothing, the tables' rows are normalized and averaged."""
    for block in token_conditioner.blocks:
        for weight in block.attention.out.weights + block.contract.weights:
            weight.assign(keras.ops.zeros(weight.shape))
    rows = np.asarray(token_conditioner.table.embeddings)[TOKENS[0, :3]]
    rows = rows + np.asarray(token_conditioner.positions.embeddings)[:3]
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-3)
    norm = token_conditioner.norm
    expected = np.mean(rows * np.asarray(norm.gamma) + np.asarray(norm.beta), axis=0)
    np.testing.assert_allclose(token_conditioner(TOKENS)["vector"][0], expected, atol=1e-5)
