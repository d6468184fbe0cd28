"""The Denoiser: what it makes of a network's output, its variables, and the size of clip64."""

import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.config import Config, resolve
from t2i_tpu.models.baseline_unet import BatchNorm
from t2i_tpu.models.denoiser import ConditionShape, Denoiser

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = {
    "embedding": ConditionShape("embedding", (6,)),
    "label": ConditionShape("label", (), 3),
    "tokens": ConditionShape("tokens", (5,), 11),
    "sequence": ConditionShape("sequence", (6 + 5 * 3,), 5, 3),
}
CONDITIONS = {
    "embedding": np.random.default_rng(5).standard_normal((2, 6)).astype("float32"),
    "label": np.array([1, 3], "int32"),
    "tokens": np.array([[4, 7, 0, 0, 0], [10, 2, 3, 0, 0]], "int32"),
    "sequence": np.random.default_rng(6).standard_normal((2, 21)).astype("float32"),
}


def config(recipe="modern", **diffusion):
    made = Config(recipe=recipe)
    made.data.image_size = 4
    made.model.widths, made.model.attention_levels = (8, 8), (False, True)
    made.model.block_depth, made.model.patch_size, made.model.embedding_dim = 1, 1, 8
    for name, value in diffusion.items():
        setattr(made.diffusion, name, value)
    return resolve(made)


def randomised(config, kind="embedding", **kwargs):
    denoiser = Denoiser(config, 3, SHAPES[kind], **kwargs).build_variables()
    rng = np.random.default_rng(2)
    for weight in denoiser.trainable_variables:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)
    return denoiser


def inputs():
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
def test_denoise_by_formula(path, kind, expected):
    denoiser = randomised(config(path=path, prediction_type=kind))
    x, level = inputs()
    output = np.asarray(denoiser(x, level, CONDITIONS["embedding"]))
    assert np.std(output) > 0.1
    got = denoiser.denoise(x, level, CONDITIONS["embedding"])
    level = np.asarray(level)[:, None, None, None]
    np.testing.assert_allclose(got, expected(np.asarray(x), output, level), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
@pytest.mark.parametrize("kind", SHAPES)
def test_every_condition_is_heard_by_every_network(kind, recipe):
    denoiser = randomised(config(recipe), kind)
    x, level = inputs()
    output = denoiser(x, level, CONDITIONS[kind])
    assert output.shape == x.shape
    other = denoiser(x, level, CONDITIONS[kind][::-1])
    null = denoiser(x, level, np.zeros_like(CONDITIONS[kind]))
    assert np.abs(output - other).max() > 1e-3
    assert np.abs(output - null).max() > 1e-3
    assert np.abs(output - denoiser(x, level[::-1], CONDITIONS[kind])).max() > 1e-3


def test_padding_tokens_change_no_image():
    denoiser = randomised(config(), "tokens")
    x, level = inputs()
    before = np.asarray(denoiser(x, level, CONDITIONS["tokens"]))
    table = denoiser.conditioner.table.embeddings
    table.assign(table + tf.constant([[5.0]] + [[0.0]] * 10))  # the row of padding
    np.testing.assert_array_equal(denoiser(x, level, CONDITIONS["tokens"]), before)


@pytest.mark.parametrize("recipe", ["modern", "baseline"])
@pytest.mark.parametrize("kind", SHAPES)
def test_variables_have_paths_of_their_own_and_the_same_in_every_instance(kind, recipe):
    one, two = (Denoiser(config(recipe), 3, SHAPES[kind]).build_variables() for _ in range(2))
    paths = [variable.path for variable in one.variables]
    assert len(set(paths)) == len(paths) > 20
    assert [variable.path for variable in two.variables] == paths
    assert [v.shape for v in two.variables] == [v.shape for v in one.variables]


def test_batch_norms_are_those_of_the_baseline():
    baseline = Denoiser(config("baseline"), 3, SHAPES["label"]).build_variables()
    norms = baseline.batch_norms()
    # the prompt's, one a block (down, middle, up) and the first block's second, and in the one
    # block that attends two of self- and two of cross-attention
    assert len(norms) == 1 + 3 + 1 + 4
    assert {type(norm) for norm in norms} == {BatchNorm}
    assert len(baseline.non_trainable_variables) == 2 * len(norms)
    assert not Denoiser(config(), 3, SHAPES["label"]).build_variables().batch_norms()


def test_mixed_precision_gives_float32_near_that_of_float32():
    full, mixed = randomised(config()), randomised(config(), dtype="mixed_bfloat16")
    mixed.set_weights(full.get_weights())
    x, level = inputs()
    expected, got = (
        np.asarray(d.denoise(x, level, CONDITIONS["embedding"])) for d in (full, mixed)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.15 * np.std(expected))


def test_mixed_precision_keeps_the_noise_level():
    """Keras casts a layer's inputs to its compute type, where 0.501 would be 0.5."""
    denoiser, seen = Denoiser(config(), 3, SHAPES["embedding"], dtype="mixed_bfloat16"), []
    network = denoiser.network
    call = network.call

    def spy(x, noise_level, *args, **kwargs):
        seen.append(noise_level)
        return call(x, noise_level, *args, **kwargs)

    network.call = spy
    x, _ = inputs()
    denoiser(x, tf.constant([0.5, 0.501]), CONDITIONS["embedding"])
    np.testing.assert_array_equal(seen[-1], np.array([0.5, 0.501], "float32"))


def test_clip64_has_40_million_parameters():
    spec = importlib.util.spec_from_file_location("clip64", ROOT / "configs/clip64.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    denoiser = Denoiser(resolve(module.get_config()), 3, ConditionShape("embedding", (768,)))
    assert denoiser.image_shape == (64, 64, 3)
    assert denoiser.build_variables().count_params() == pytest.approx(40e6, rel=0.1)
