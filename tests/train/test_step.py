"""A replica's step: what the network is shown, what is measured, and that it is traced once."""

import math

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.train.step import NUM_BANDS, corrupted, make_device_loop
from tests import tiny


def shown(config, slots, step, size=6):
    """`corrupted` for images and conditions that are a function of the slot."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (4096, size, size, 3)).astype(np.uint8)[slots]
    conditions = rng.normal(size=(4096, 5)).astype(np.float32)[slots]
    batch = {
        "image": tf.constant(images),
        "condition": tf.constant(conditions),
        "slot": tf.constant(slots, tf.int32),
    }
    found = corrupted(config, PATHS[config.diffusion.path], batch, tf.constant(step, tf.int64))
    return {name: value.numpy() for name, value in found.items()} | {
        "raw": images,
        "given": conditions,
    }


def test_draws_belong_to_slots_not_to_replicas(squares):
    """Any split and any order of the batch is shown the same; any other step or seed another."""
    config = tiny.config(squares, data__horizontal_flip=True)
    slots = np.arange(12)
    whole = shown(config, slots, 5)
    order = np.array([7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6])
    parts = [shown(config, part, 5) for part in np.split(order, 3)]
    # A quantile function's last bit may hang on where a value lies in a vector register.
    for name, tolerance in dict(noise=0, condition=0, noise_level=2e-7, noisy=2e-6).items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined, whole[name][order], rtol=0, atol=tolerance)
    assert len({noise.tobytes() for noise in whole["noise"]}) == 12
    other_step = shown(config, slots, 6)
    other_seed = shown(tiny.config(squares, data__horizontal_flip=True, seed=1), slots, 5)
    for other in (other_step, other_seed):
        assert np.abs(other["noise"] - whole["noise"]).min(axis=(1, 2, 3)).max() < 1
        assert np.all(np.abs(other["noise"] - whole["noise"]).mean(axis=(1, 2, 3)) > 0.5)
        assert not np.any(other["noise_level"] == whole["noise_level"])


def test_what_the_network_is_shown(squares):
    """Pixels to [-1, 1]; (1 - n) x + n z; noise of mean 0 and variance 1; flips of half of the
    images; zeros for a tenth of the conditions; none of these draws goes with another."""
    config = tiny.config(squares, data__horizontal_flip=True)
    found = shown(config, np.arange(4096), 0)
    straight = found["raw"] / 127.5 - 1.0
    flipped = np.any(np.abs(found["image"] - straight) > 1e-6, axis=(1, 2, 3))
    expected = np.where(flipped[:, None, None, None], straight[:, :, ::-1], straight)
    np.testing.assert_allclose(found["image"], expected, atol=1e-6)
    level = found["noise_level"][:, None, None, None].astype(np.float64)
    noisy = (1 - level) * found["image"] + level * found["noise"]
    np.testing.assert_allclose(found["noisy"], noisy, atol=1e-5)
    dropped = np.all(found["condition"] == 0, axis=1)
    np.testing.assert_array_equal(found["condition"][~dropped], found["given"][~dropped])
    # Five standard deviations of each estimate.
    count = found["noise"].size
    assert abs(found["noise"].mean()) < 5 / math.sqrt(count)
    assert abs(found["noise"].var() - 1) < 5 * math.sqrt(2 / count)
    for share, probability in ((flipped, 0.5), (dropped, 0.1)):
        assert abs(share.mean() - probability) < 5 * math.sqrt(
            probability * (1 - probability) / 4096
        )
    draws = np.stack([flipped, dropped, found["noise_level"], found["noise"][:, 0, 0, 0]])
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(4096)
    none = shown(tiny.config(squares, diffusion__cond_dropout_rate=0.0), np.arange(512), 0)
    np.testing.assert_array_equal(none["condition"], none["given"])
    np.testing.assert_allclose(none["image"], none["raw"] / 127.5 - 1.0, atol=1e-6)


@pytest.fixture(scope="module")
def counted(squares):
    """A run on two devices whose replica step counts how often Python runs it."""
    target = dict(diffusion__prediction_type="velocity", diffusion__loss_weight="uniform")
    run, calls = tiny.Run(tiny.config(squares, **target), ["CPU:0", "CPU:1"]), []

    def replica_step(batch):
        calls.append(sorted(batch))
        return run.replica_step(batch)

    run.loop = make_device_loop(run.strategy, replica_step)
    run.calls = calls
    return run


def test_metrics_of_the_first_step_by_hand(counted):
    """The network starts as zero, so its first loss is the mean square of the target x - z."""
    run = counted
    assert run.state.step.numpy() == 0
    (batch,) = run.dataset.batches(0, 8, 8).take(1)
    first = corrupted(run.config, run.state.denoiser.diffusion_path, batch, tf.constant(0))
    first = {name: value.numpy().astype(np.float64) for name, value in first.items()}
    loss = np.square(first["noise"] - first["image"]).mean(axis=(1, 2, 3))
    band = np.minimum((first["noise_level"] * NUM_BANDS).astype(int), NUM_BANDS - 1)
    metrics = run.steps(1)
    np.testing.assert_allclose(
        metrics[:NUM_BANDS], np.bincount(band, loss, minlength=NUM_BANDS), rtol=1e-5
    )
    np.testing.assert_array_equal(
        metrics[NUM_BANDS : 2 * NUM_BANDS], np.bincount(band, minlength=NUM_BANDS)
    )
    norm, skipped, steps = metrics[2 * NUM_BANDS :]
    assert norm > 0 and skipped == 0 and steps == 1  # of the first replica, not of both


def test_traced_once_whatever_the_length_of_the_loop(counted):
    run = counted
    run.steps(1)
    assert len(run.calls) == 2  # one trace, in which each of the two replicas runs once
    step = run.state.step.numpy()
    for length in (3, 1, 2):
        assert run.steps(length)[-1] == length
    assert run.state.step.numpy() == step + 6
    assert len(run.calls) == 2
    assert run.loop.experimental_get_tracing_count() == 1


def test_replicas_hold_the_same_bits(counted):
    run = counted
    run.steps(2)
    for value in (*run.state.weights, *run.state.second_moments, run.state.step):
        one, other = (copy.numpy() for copy in run.strategy.experimental_local_results(value))
        np.testing.assert_array_equal(one, other)
