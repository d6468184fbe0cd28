"""Keeps the package's tf.data pipelines from starting an autotuning thread.

Destroying an iterator waits for that thread, which takes seconds or minutes on a busy machine. The
package's pipelines set their parallelism and buffer sizes themselves.
"""

import tensorflow as tf


def disable_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a data set whose iterators start no autotuning thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
