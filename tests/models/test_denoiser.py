"""Tests the Denoiser: conversion of the output, variables, and the size of clip64's model."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import tree

from t2i_tpu.config import Config, resolve
from t2i_tpu.errors import UserError
from t2i_tpu.models.conditioning import BASELINE_CONDITIONERS, CONDITIONERS, ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser

ROOT = pathlib.Path(__file__).parents[2]
SPECS = {
    "embedding": ConditionSpec({"embedding": ((6,), "float32")}),
    "label": ConditionSpec({"label": ((), "int32")}, num_ids=3),
    "tokens": ConditionSpec({"tokens": ((5,), "int32")}, num_ids=11),
    "sequence": ConditionSpec({"embedding": ((6,), "float32"), "sequence": ((5, 3), "float32")}),
}
RNG = np.random.default_rng(5)
EMBEDDING = RNG.standard_normal((2, 6)).astype("float32")
CONDITIONS = {
    "embedding": {"embedding": EMBEDDING},
    "label": {"label": np.array([1, 3], "int32")},
    "tokens": {"tokens": np.array([[4, 7, 0, 0, 0], [10, 2, 3, 0, 0]], "int32")},
    "sequence": {
        "embedding": EMBEDDING,
        "sequence": RNG.standard_normal((2, 5, 3)).astype("float32"),
    },
}


def make_config(recipe="modern", kind="embedding", **diffusion):
    made = Config(recipe=recipe)
    made.model.conditioning = kind
    made.data.image_size = 4
    made.model.widths, made.model.attention_levels = (8, 8), (False, True)
    made.model.block_depth, made.model.patch_size, made.model.embedding_dim = 1, 1, 8
    for name, value in diffusion.items():
        setattr(made.diffusion, name, value)
    return resolve(made)


def build(config, dtype_policy="float32"):
    return build_denoiser(config, 3, SPECS[config.model.conditioning], dtype_policy)


def build_randomized(config, dtype_policy="float32"):
    denoiser = build(config, dtype_policy)
    rng = np.random.default_rng(2)
    for weight in denoiser.trainable_variables:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)
    return denoiser


def make_inputs():
    x = np.random.default_rng(3).standard_normal((2, 4, 4, 3)).astype("float32")
    return tf.constant(x), tf.constant([0.2, 0.9])


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("linear", "denoised", lambda x, o, n: o),
        ("linear", "noise", lambda x, o, n: (x - n * o) / (1 - n)),
        ("linear", "velocity", lambda x, o, n: x - n * o),
        ("cosine", "v", lambda x, o, n: np.cos(n * np.pi / 2) * x - np.sin(n * np.pi / 2) * o),
    ],
)
def test_denoise_follows_the_formula(path, kind, expected):
    denoiser = build_randomized(make_config(path=path, prediction_type=kind))
    x, level = make_inputs()
    output = np.asarray(denoiser(x, level, CONDITIONS["embedding"])[0])
    assert np.std(output) > 0.1
    got = denoiser.denoise(x, level, CONDITIONS["embedding"])
    level = np.asarray(level)[:, None, None, None]
    np.testing.assert_allclose(got, expected(np.asarray(x), output, level), atol=1e-4, rtol=1e-4)


MODELS = [
    *(("modern", kind) for kind in CONDITIONERS),
    *(("baseline", kind) for kind in BASELINE_CONDITIONERS),
]


@pytest.mark.parametrize(("recipe", "kind"), MODELS)
def test_every_input_changes_the_output(recipe, kind):
    denoiser = build_randomized(make_config(recipe, kind))
    x, level = make_inputs()
    output, statistics = denoiser(x, level, CONDITIONS[kind])
    assert output.shape == x.shape and statistics == {}
    for field in CONDITIONS[kind]:
        changed = CONDITIONS[kind] | {field: CONDITIONS[kind][field][::-1]}
        assert np.abs(output - denoiser(x, level, changed)[0]).max() > 1e-3, field
    null = denoiser(x, level, SPECS[kind].null(2))[0]
    assert np.abs(output - null).max() > 1e-3
    assert np.abs(output - denoiser(x, level[::-1], CONDITIONS[kind])[0]).max() > 1e-3


def test_the_baseline_rejects_a_sequence():
    with pytest.raises(UserError, match="config.model.conditioning is 'sequence'"):
        build(make_config("baseline", "sequence"))


def test_padding_tokens_change_no_image():
    denoiser = build_randomized(make_config(kind="tokens"))
    x, level = make_inputs()
    before = np.asarray(denoiser(x, level, CONDITIONS["tokens"])[0])
    table = denoiser.conditioner.table.embeddings
    table.assign(table + tf.constant([[5.0]] + [[0.0]] * 10))  # the row of padding
    np.testing.assert_array_equal(denoiser(x, level, CONDITIONS["tokens"])[0], before)


@pytest.mark.parametrize(("recipe", "kind"), MODELS)
def test_paths_of_variables_are_unique_and_stable(recipe, kind):
    first, second = (build(make_config(recipe, kind)) for _ in range(2))
    paths = [variable.path for variable in first.variables]
    assert len(set(paths)) == len(paths) > 20
    assert [variable.path for variable in second.variables] == paths
    assert [v.shape for v in second.variables] == [v.shape for v in first.variables]


def test_only_the_baseline_returns_batch_statistics():
    """There is one value for each moving statistic, by its path; the modern blocks have none."""
    baseline = build(make_config("baseline", "label"))
    x, level = make_inputs()
    _, statistics = baseline(x, level, CONDITIONS["label"], training=True)
    moving = {variable.path: variable.shape for variable in baseline.moving_statistics()}
    assert {path: value.shape for path, value in statistics.items()} == moving
    # Count the norms: one of the prompt, one of each block (down, middle, up), a second one of the
    # first block, and in the block that attends two for self- and two for cross-attention. Each
    # norm has a mean and a variance.
    assert len(moving) == 2 * (1 + 3 + 1 + 4) == len(baseline.non_trainable_variables)
    modern = build(make_config(kind="label"))
    assert modern(x, level, CONDITIONS["label"], training=True)[1] == {}
    assert not modern.moving_statistics()


def test_mixed_precision_is_close_to_float32():
    full, mixed = (
        build_randomized(make_config()),
        build_randomized(make_config(), dtype_policy="mixed_bfloat16"),
    )
    mixed.set_weights(full.get_weights())
    x, level = make_inputs()
    expected, got = (
        np.asarray(d.denoise(x, level, CONDITIONS["embedding"])) for d in (full, mixed)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.15 * np.std(expected))


def test_mixed_precision_keeps_the_noise_level():
    """Keras casts a layer's inputs to its compute dtype, and in bfloat16 0.501 would be 0.5."""
    denoiser, seen = build(make_config(), dtype_policy="mixed_bfloat16"), []
    network = denoiser.network
    call = network.call

    def spy(x, noise_level, *args, **kwargs):
        seen.append(noise_level)
        return call(x, noise_level, *args, **kwargs)

    network.call = spy
    x, _ = make_inputs()
    denoiser(x, tf.constant([0.5, 0.501]), CONDITIONS["embedding"])
    np.testing.assert_array_equal(seen[-1], np.array([0.5, 0.501], "float32"))


def test_clip64_has_40_million_parameters():
    spec = importlib.util.spec_from_file_location("clip64", ROOT / "configs/clip64.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    spec = ConditionSpec({"embedding": ((768,), "float32")})
    denoiser = build_denoiser(resolve(module.get_config()), 3, spec, "float32")
    assert denoiser.image_shape == (64, 64, 3)
    assert denoiser.count_params() == pytest.approx(40e6, rel=0.1)


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        *(("modern", kind) for kind in CONDITIONERS),
        *(("baseline", kind) for kind in BASELINE_CONDITIONERS),
    ],
)
def test_the_model_is_built_without_tracing_it(recipe, kind, monkeypatch):
    """Keras infers shapes in plain Python, which is several times faster."""

    def fail(*_, **__):
        raise AssertionError("TensorFlow traces a layer")

    monkeypatch.setattr("keras.src.backend.compute_output_spec", fail)
    denoiser = build(make_config(recipe, kind), "mixed_bfloat16")
    inputs = (*make_inputs(), CONDITIONS[kind])
    symbols = tree.map_structure(
        lambda array: keras.Input(batch_shape=array.shape, dtype=array.dtype), inputs
    )
    expected, symbolic = denoiser(*inputs)[0], denoiser(*symbols)[0]
    assert symbolic.shape == expected.shape and symbolic.dtype == expected.dtype.name
