"""Tests the examples that the network sees in a training step."""

import math

import numpy as np
import tensorflow as tf

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.step.objective import corrupt_batch
from tests import tiny


def corrupt_slots(config, slots, step, size=6):
    """Return the result of `corrupt_batch` for images and conditions that depend on the slot."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (4096, size, size, 3)).astype(np.uint8)[slots]
    conditions = rng.normal(size=(4096, 5)).astype(np.float32)[slots]
    batch = {
        "image": tf.constant(images),
        "condition": {"embedding": tf.constant(conditions)},
        "slot": tf.constant(slots, tf.int32),
    }
    path = PATHS[config.diffusion.path]
    examples = corrupt_batch(config, path, batch, tf.constant(step, tf.int64))
    examples["condition"] = examples["condition"]["embedding"]
    arrays = {name: value.numpy() for name, value in examples.items()}
    return arrays | {"raw": images, "given": conditions}


def test_draws_belong_to_slots_not_to_replicas(squares):
    """An example depends on the step and the seed, but not on the order or split of its batch."""
    config = tiny.make_config(squares, data__horizontal_flip=True)
    slots = np.arange(12)
    together = corrupt_slots(config, slots, 5)
    order = np.array([7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6])
    parts = [corrupt_slots(config, part, 5) for part in np.split(order, 3)]
    # The last bit of a quantile function may depend on a value's place in a vector register.
    for name, tolerance in dict(noise=0, condition=0, noise_level=2e-7, noisy=2e-6).items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, together[name][order], rtol=0, atol=tolerance)
    assert len({noise.tobytes() for noise in together["noise"]}) == 12
    other_step = corrupt_slots(config, slots, 6)
    other_seed = corrupt_slots(
        tiny.make_config(squares, data__horizontal_flip=True, seed=1), slots, 5
    )
    for other in (other_step, other_seed):
        assert np.abs(other["noise"] - together["noise"]).min(axis=(1, 2, 3)).max() < 1
        assert np.all(np.abs(other["noise"] - together["noise"]).mean(axis=(1, 2, 3)) > 0.5)
        assert not np.any(other["noise_level"] == together["noise_level"])


def test_corrupted_examples_have_the_right_distributions(squares):
    """Pixels are in [-1, 1], noisy images are (1 - n) x + n z, and z has mean 0 and variance 1.

    Half of the images are flipped, a tenth of the conditions are dropped, and no draw correlates
    with another.
    """
    config = tiny.make_config(squares, data__horizontal_flip=True)
    examples = corrupt_slots(config, np.arange(4096), 0)
    straight = examples["raw"] / 127.5 - 1.0
    flipped = np.any(np.abs(examples["image"] - straight) > 1e-6, axis=(1, 2, 3))
    expected = np.where(flipped[:, None, None, None], straight[:, :, ::-1], straight)
    np.testing.assert_allclose(examples["image"], expected, atol=1e-6)
    level = examples["noise_level"][:, None, None, None].astype(np.float64)
    noisy = (1 - level) * examples["image"] + level * examples["noise"]
    np.testing.assert_allclose(examples["noisy"], noisy, atol=1e-5)
    dropped = np.all(examples["condition"] == 0, axis=1)
    np.testing.assert_array_equal(examples["condition"][~dropped], examples["given"][~dropped])
    # Allow five standard deviations of each estimate.
    count = examples["noise"].size
    assert abs(examples["noise"].mean()) < 5 / math.sqrt(count)
    assert abs(examples["noise"].var() - 1) < 5 * math.sqrt(2 / count)
    for share, probability in ((flipped, 0.5), (dropped, 0.1)):
        assert abs(share.mean() - probability) < 5 * math.sqrt(
            probability * (1 - probability) / 4096
        )
    draws = np.stack([flipped, dropped, examples["noise_level"], examples["noise"][:, 0, 0, 0]])
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(4096)
    none = corrupt_slots(
        tiny.make_config(squares, diffusion__cond_dropout_rate=0.0), np.arange(512), 0
    )
    np.testing.assert_array_equal(none["condition"], none["given"])
    np.testing.assert_allclose(none["image"], none["raw"] / 127.5 - 1.0, atol=1e-6)
