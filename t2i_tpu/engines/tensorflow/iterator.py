"""Distributes batches over the replicas of a strategy, without autotuning; see data/pipeline.py."""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from t2i_tpu.data.pipeline import disable_autotuning


def make_distributed_iterator(
    strategy: tf.distribute.Strategy,
    make_dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> tf.distribute.DistributedIterator:
    """Return an iterator whose elements are distributed over the replicas of a strategy.

    Args:
      strategy: the strategy.
      make_dataset: a function that returns the data set of a host, without autotuning.
    """
    with _disable_device_autotuning():
        return iter(strategy.distribute_datasets_from_function(make_dataset))


@contextlib.contextmanager
def _disable_device_autotuning() -> Iterator[None]:
    """Disable autotuning in the pipelines that are created inside the block to fill a device's buffer.

    TensorFlow creates one for each device, and there is no other way to set their options.
    """
    create = multi_device_iterator_ops._create_device_dataset
    multi_device_iterator_ops._create_device_dataset = lambda *arguments: disable_autotuning(
        create(*arguments)
    )
    try:
        yield
    finally:
        multi_device_iterator_ops._create_device_dataset = create
