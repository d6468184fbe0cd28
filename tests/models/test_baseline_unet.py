"""Tests the baseline's U-Net against a literal one in plain Keras layers.

`build_literal` follows the description of the network, with the prompt as an image. If our weights
are copied into it, it must return the same output in inference and in training.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from t2i_tpu.config import Config, resolve
from t2i_tpu.models.baseline_unet import BaselineUNet, BatchNorm, upsample_bilinear
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.step.optimizer import STATISTICS_MOMENTUM

SIZE, CHANNELS, WIDTHS, DEPTH, ATTENDS, DIM = 8, 3, (16, 24, 32), 2, (False, True, True), 12
CLIP = ConditionSpec({"embedding": ((512,), "float32")})
LABEL = ConditionSpec({"label": ((), "int32")}, num_ids=10)


class LiteralLayers:
    """The parts of the literal network, and its layers by name."""

    def __init__(self):
        self.by_name = {}

    def apply(self, name, layer, x):
        self.by_name[name] = layer
        return layer(x)

    def norm(self, name, x, **kwargs):
        return self.apply(name, layers.BatchNormalization(**kwargs), x)

    def conv(self, name, x, width, kernel_size=1, activation=None):
        layer = layers.Conv2D(width, kernel_size, padding="same", activation=activation)
        return self.apply(name, layer, x)

    def attention(self, name, query, key, value, width):
        """Return unscaled attention. The rows of its matrix are the keys, as in the baseline."""
        _, height, wide, _ = key.shape
        query, key, value = (
            ops.reshape(part, (-1, height * wide, part.shape[-1])) for part in (query, key, value)
        )
        weights = ops.softmax(ops.matmul(key, ops.transpose(query, (0, 2, 1))), axis=-1)
        x = ops.reshape(ops.matmul(weights, value), (-1, height, wide, width))
        return self.norm(f"{name}/out_norm", self.conv(f"{name}/out", x, width))

    def block(self, name, x, prompt, level):
        width = WIDTHS[level]
        shortcut = x if x.shape[-1] == width else self.conv(f"{name}/shortcut", x, width)
        h = self.norm(f"{name}/norm", x, center=False, scale=False)
        h = self.conv(f"{name}/conv1", h, width, 3, "swish")
        x = self.conv(f"{name}/conv2", h, width, 3) + shortcut
        if not ATTENDS[level]:
            return x
        # Self-attention.
        own, cross = f"{name}/self_attention", f"{name}/cross_attention"
        n = self.norm(f"{own}/norm", x)
        query, key = (self.conv(f"{own}/{part}", n, width // 8) for part in ("query", "key"))
        x = x + self.attention(own, query, key, self.conv(f"{own}/value", n, width), width)
        # Cross-attention.
        n, text = self.norm(f"{cross}/image_norm", x), self.norm(f"{cross}/norm", prompt)
        query = self.conv(f"{cross}/query", text, width // 8)
        key = self.conv(f"{cross}/key", n, width // 8)
        value = self.conv(f"{cross}/value", text, width)
        return x + self.attention(cross, query, key, value, width)


def build_literal():
    """Return a keras.Model that takes [image, noise level, prompt], and its layers by name."""
    made = LiteralLayers()
    image, level, label = (keras.Input(shape) for shape in ((SIZE, SIZE, CHANNELS), (1,), (DIM,)))
    # Turn the prompt into an image of equal pixels.
    frequencies = np.exp(np.linspace(np.log(1.0), np.log(1000.0), 16))
    angles = level * ops.convert_to_tensor(2 * np.pi * frequencies, "float32")
    waves = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
    waves, label_image = (
        layers.UpSampling2D(SIZE)(layers.Reshape((1, 1, part.shape[-1]))(part))
        for part in (waves, label)
    )
    prompt = made.norm("prompt_norm", ops.concatenate([label_image, waves], axis=-1))
    # Down, middle and up.
    x = ops.concatenate([made.conv("stem", image, WIDTHS[0]), waves, label_image], axis=-1)
    skips, last = [], len(WIDTHS) - 1
    for level_index in range(last):
        for index in range(DEPTH):
            x = made.block(f"down{level_index}_{index}", x, prompt, level_index)
            skips.append(x)
        x, prompt = layers.AveragePooling2D(2)(x), layers.AveragePooling2D(2)(prompt)
    for index in range(DEPTH):
        x = made.block(f"middle{index}", x, prompt, last)
    for level_index in reversed(range(last)):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        prompt = layers.UpSampling2D(2, interpolation="bilinear")(prompt)
        for index in range(DEPTH):
            x = ops.concatenate([x, skips.pop()], axis=-1)
            x = made.block(f"up{level_index}_{index}", x, prompt, level_index)
    head = made.conv("head", x, CHANNELS)
    return keras.Model([image, level, label], head), made.by_name


def randomize(layer):
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        values = rng.standard_normal(weight.shape) * 0.5
        if len(weight.shape) > 1:
            values /= np.sqrt(np.prod(weight.shape[:-1]))
        if "variance" in weight.path or "gain" in weight.path:
            values = 0.7 + np.abs(values)
        weight.assign(values)


def copy_weights(ours, made):
    """Copy our weights into the literal network, by the names of the layers."""
    values = {weight.path.split("unet/", 1)[1]: np.asarray(weight) for weight in ours.weights}
    # In the first block, ours has the channels [image, label, waves], theirs [image, waves, label].
    start = WIDTHS[0]
    order = [*range(start), *range(start + DIM, start + DIM + 32), *range(start, start + DIM)]
    for name in ("shortcut", "conv1"):
        values[f"down0_0/{name}/kernel"] = values[f"down0_0/{name}/kernel"][:, :, order]
    for name in ("moving_mean", "moving_variance"):
        both = values[f"down0_0/norm/{name}"], values.pop(f"down0_0/prompt_norm/{name}")
        values[f"down0_0/norm/{name}"] = np.concatenate(both)[order]
    theirs = {"gain": "gamma", "bias": "beta"}
    for path, value in values.items():
        layer_name, name = path.rsplit("/", 1)
        layer = made[layer_name]
        is_norm = isinstance(layer, layers.BatchNormalization)
        weight = getattr(layer, theirs.get(name, name) if is_norm else name)
        # Our dense layers are 1x1 convolutions there.
        weight.assign(value.reshape(weight.shape))


@pytest.fixture(scope="module")
def networks():
    ours = BaselineUNet(CHANNELS, WIDTHS, DEPTH, ATTENDS, DIM, name="unet")
    run_network(ours, *make_inputs())
    randomize(ours)
    return ours, *build_literal()


@pytest.fixture
def pair(networks):
    """Our network, the literal one with the same weights, and the layers of the literal one."""
    ours, model, made = networks
    copy_weights(ours, made)
    return ours, model, made


def make_inputs():
    rng = np.random.default_rng(1)
    shapes = (4, SIZE, SIZE, CHANNELS), (4, 1), (4, DIM)
    image, level, label = (rng.standard_normal(shape).astype("float32") for shape in shapes)
    return image, np.abs(level) / 10, label


def run_network(network, image, level, label, training=False):
    return np.asarray(network(image, level[:, 0], tf.constant(label), training=training)[0])


def test_inference_equals_the_literal_network(pair):
    ours, model, _ = pair
    expected = np.asarray(model(list(make_inputs()), training=False))
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(run_network(ours, *make_inputs()), expected, atol=1e-4)


def test_training_equals_the_literal_network(pair):
    ours, model, made = pair
    before = {
        name: (np.asarray(layer.moving_mean), np.asarray(layer.moving_variance))
        for name, layer in made.items()
        if isinstance(layer, layers.BatchNormalization)
    }
    expected = np.asarray(model(list(make_inputs()), training=True))
    np.testing.assert_allclose(
        run_network(ours, *make_inputs(), training=True), expected, atol=1e-4
    )
    # Keras has moved its averages by a hundredth of the distance to the statistics that we return.
    image, level, label = make_inputs()
    _, statistics = ours(image, level[:, 0], tf.constant(label), training=True)
    for block in (ours.down[1][0], ours.middle[1], ours.up[1][0]):
        names = ["norm", "self_attention/out_norm"] if block.self_attention else ["norm"]
        for name in (f"{block.name}/{name}" for name in names):
            after = made[name].moving_mean, made[name].moving_variance
            for old, new, kind in zip(before[name], after, ("mean", "variance"), strict=True):
                (value,) = (v for p, v in statistics.items() if p.endswith(f"{name}/moving_{kind}"))
                got = old * STATISTICS_MOMENTUM + np.asarray(value) * (1 - STATISTICS_MOMENTUM)
                np.testing.assert_allclose(got, new, atol=1e-5)


def test_training_does_not_change_the_moving_averages(pair):
    ours = pair[0]
    before = [np.asarray(weight) for weight in ours.non_trainable_weights]
    run_network(ours, *make_inputs(), training=True)
    for weight, old in zip(ours.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_only_weights_without_effect_are_missing(pair):
    """These are the queries and keys of cross-attention, and the norm that feeds only the keys."""
    ours, model, made = pair
    idle = sum(
        layer.count_params()
        for name, layer in made.items()
        if name.endswith(("cross_attention/query", "cross_attention/key", "image_norm"))
    )
    assert idle > 0
    assert ours.count_params() == model.count_params() - idle


def test_the_missing_weights_have_no_effect(pair):
    _, model, made = pair
    before = np.asarray(model(list(make_inputs()), training=False))
    layer = made["middle0/cross_attention/query"]
    layer.kernel.assign(layer.kernel * 3.0 + 1.0)
    np.testing.assert_allclose(model(list(make_inputs()), training=False), before, atol=1e-4)


def test_the_initial_output_is_zero():
    network = BaselineUNet(CHANNELS, (8, 16), 1, (False, True), DIM)
    assert not run_network(network, *make_inputs()).any()


@pytest.mark.parametrize(
    ("size", "channels", "widths", "attends", "condition", "millions"),
    [
        (28, 1, (64, 128, 192), (False, True, False), LABEL, 4.1),
        # The baseline projects a CLIP embedding of 512 numbers to half its width.
        (64, 3, (96, 192, 288, 384), (False, False, True, False), CLIP, 19.3),
    ],
)
def test_the_parameter_count_is_the_baselines(size, channels, widths, attends, condition, millions):
    config = Config(recipe="baseline")
    config.data.image_size = size
    config.model.widths, config.model.attention_levels = widths, attends
    config.model.conditioning = next(iter(condition.fields))
    denoiser = build_denoiser(resolve(config), channels, condition, "float32")
    assert denoiser.count_params() == pytest.approx(millions * 1e6, rel=0.015)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 7, 5, 2), (1, 1, 3, 1)])
def test_upsample_is_keras_bilinear(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = layers.UpSampling2D(2, interpolation="bilinear")(x)
    np.testing.assert_allclose(upsample_bilinear(tf.constant(x)), expected, atol=1e-6)


@pytest.mark.host_xla
def test_upsample_has_a_gradient_under_xla():
    """Keras' own has none (tensorflow #57575). A pixel contributes four times its value in all."""

    @tf.function(jit_compile=True)
    def compute_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(upsample_bilinear(x))
        return tape.gradient(total, x)

    np.testing.assert_allclose(
        compute_gradient(tf.ones((1, 3, 4, 2))), np.full((1, 3, 4, 2), 4.0), rtol=1e-6
    )


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_keras_batch_normalization(affine):
    x = np.random.default_rng(0).standard_normal((3, 4, 4, 5)).astype("float32") * 3 + 1
    ours, theirs = BatchNorm(5, affine), layers.BatchNormalization(center=affine, scale=affine)
    ours(x)
    theirs(x)
    randomize(ours)
    theirs.set_weights([np.asarray(weight) for weight in ours.weights])
    np.testing.assert_allclose(ours(x)[0], theirs(x, training=False), atol=1e-5)
    np.testing.assert_allclose(ours(x, training=True)[0], theirs(x, training=True), atol=1e-5)
