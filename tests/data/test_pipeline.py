"""Tests that iterators start no autotuning thread, whose end a person would have to wait for."""

import os

import pytest
import tensorflow as tf

from t2i_tpu.data import audit, pipeline
from t2i_tpu.engines.tensorflow.iterator import make_distributed_iterator


def make_range(*_):
    return tf.data.Dataset.range(100).map(tf.square, num_parallel_calls=2).repeat().prefetch(2)


def count_threads(make_iterator):
    """Return the number of threads that an iterator adds. The first one also starts shared threads."""
    next(make_iterator())
    before = len(os.listdir("/proc/self/task"))
    iterators = [make_iterator() for _ in range(4)]
    for iterator in iterators:
        next(iterator)
    return (len(os.listdir("/proc/self/task")) - before) / len(iterators)


def test_iterator_starts_no_autotuning_thread():
    default = count_threads(lambda: iter(make_range()))
    assert count_threads(lambda: iter(pipeline.disable_autotuning(make_range()))) == default - 1


@pytest.mark.parametrize("num_devices", [1, 2])
def test_distributed_iterator_starts_no_autotuning_thread(num_devices):
    """By default, TensorFlow starts one thread for the data set and one for each device."""
    devices = [f"CPU:{index}" for index in range(num_devices)]
    strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())

    def make_iterator():
        return make_distributed_iterator(
            strategy, lambda _: pipeline.disable_autotuning(make_range())
        )

    without = count_threads(make_iterator)
    assert count_threads(lambda: iter(strategy.distribute_datasets_from_function(make_range))) == (
        without + 1 + num_devices
    )


def test_tests_notice_autotuning_in_the_package(monkeypatch, squares):
    monkeypatch.setattr(audit, "disable_autotuning", lambda dataset: dataset)
    with pytest.raises(AssertionError, match="audit.py starts an autotuning thread"):
        audit.audit(str(squares), 0)
