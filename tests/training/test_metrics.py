"""Tests the scalars of a log line against values computed by hand."""

import math

import pytest
import tensorflow as tf
from tqdm import tqdm

from t2i_tpu.step.metrics import BAND_NAMES, METRICS
from t2i_tpu.training.metrics import MetricsLog, average_metrics
from tests import tiny


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
    log.add(dict.fromkeys(METRICS, 10.0), waited=0.0, seconds=1.0)
    log.write(10, 0.5, tf.summary.create_noop_writer(), tqdm(disable=True), is_chief=True)
    expected = 0.5 * train.learning_rate * 0.5 * (1 + math.cos(math.pi * 0.9))
    assert log.latest["learning_rate"] == pytest.approx(expected, rel=1e-5)
