"""Tests a replica's step: the examples that the network sees, the metrics, and tracing."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tqdm import tqdm

from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.train.metrics import MetricsLog, average_metrics
from t2i_tpu.train.step import BAND_NAMES, METRICS, NUM_BANDS, corrupt_batch, make_device_loop
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


@pytest.fixture(scope="module")
def counted_run(squares):
    """A run on two devices that counts how often Python runs its replica step."""
    target = dict(diffusion__prediction_type="velocity", diffusion__loss_weight="uniform")
    run, calls = tiny.Run(tiny.make_config(squares, **target), ["CPU:0", "CPU:1"]), []

    def replica_step(batch):
        calls.append(sorted(batch))
        return run.trainer.replica_step(batch)

    run.loop = make_device_loop(run.strategy, replica_step, run.trainer.waiting)
    run.calls = calls
    return run


def test_metrics_of_the_first_step_match_the_formula(counted_run):
    """The network starts as zero, so its first loss is the mean square of the target x - z."""
    run = counted_run
    assert run.state.step.numpy() == 0
    (batch,) = run.dataset.batches(0, 8, 8).take(1)
    first = corrupt_batch(run.config, run.state.denoiser.diffusion_path, batch, tf.constant(0))
    del first["condition"]
    first = {name: value.numpy().astype(np.float64) for name, value in first.items()}
    loss = np.square(first["noise"] - first["image"]).mean(axis=(1, 2, 3))
    band = np.minimum((first["noise_level"] * NUM_BANDS).astype(int), NUM_BANDS - 1)
    metrics = run.steps(1)
    sums, counts = np.bincount(band, loss, NUM_BANDS), np.bincount(band, minlength=NUM_BANDS)
    for index, name in enumerate(BAND_NAMES):
        np.testing.assert_allclose(metrics[f"loss/{name}"], sums[index], rtol=1e-5)
        assert metrics[f"examples/{name}"] == counts[index]
    assert metrics["gradient_norm"] > 0 and metrics["skipped_steps"] == 0
    assert metrics["steps"] == 1  # only the first replica contributes


def test_average_metrics_matches_hand_computed_values():
    names = BAND_NAMES
    sums = {f"loss/{name}": value for name, value in zip(names, (4.0, 0.0, 3.0, 1.0), strict=True)}
    sums |= {f"examples/{name}": n for name, n in zip(names, (8, 0, 6, 2), strict=True)}
    sums |= {"gradient_norm": 6.0, "skipped_steps": 1.0, "steps": 4.0, "another": 10.0}
    assert average_metrics(sums) == {
        "loss": 0.5,
        "gradient_norm": 2.0,
        "skipped_steps": 1.0,
        "loss_by_noise_level/0.00_to_0.25": 0.5,
        "loss_by_noise_level/0.50_to_0.75": 0.5,
        "loss_by_noise_level/0.75_to_1.00": 0.5,
        "another": 2.5,
    }


def test_the_logged_learning_rate_is_that_of_the_latest_step(squares):
    """At the end of a cosine, the next step's rate would be 0."""
    train = tiny.make_config(squares, train__total_steps=10, train__warmup_steps=1).train
    log = MetricsLog(train)
    log.add({name: tf.constant(10.0) for name in METRICS}, waited=0.0, seconds=1.0)
    log.write(10, 0.5, tf.summary.create_noop_writer(), tqdm(disable=True), is_chief=True)
    expected = 0.5 * train.learning_rate * 0.5 * (1 + math.cos(math.pi * 0.9))
    assert log.latest["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_the_loop_is_traced_once_for_all_its_lengths(counted_run):
    run = counted_run
    run.steps(1)
    assert len(run.calls) == 2  # one trace, which runs each of the two replicas once
    step = run.state.step.numpy()
    for length in (3, 1, 2):
        assert run.steps(length)["steps"] == length
    assert run.state.step.numpy() == step + 6
    assert len(run.calls) == 2
    assert run.loop.experimental_get_tracing_count() == 1


def test_replicas_hold_the_same_bits(counted_run):
    run = counted_run
    run.steps(2)
    for value in (*run.state.weights, *run.state.second_moments, run.state.step):
        first, second = (copy.numpy() for copy in run.strategy.experimental_local_results(value))
        np.testing.assert_array_equal(first, second)
