"""Sums over the hosts of a run, and the error that is raised if one of them disappears."""

import contextlib
import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run.strategy import get_host_index


def sum_over_hosts(strategy: tf.distribute.Strategy, values: Sequence[int]) -> list[int]:
    """Return the elementwise sum of the hosts' values.

    Every host must call this function with the same number of values. All get the same result.
    """
    _, num_hosts = get_host_index(strategy)
    if num_hosts == 1:
        return list(values)
    replicas_per_host = strategy.num_replicas_in_sync // num_hosts

    def make_value(context):
        # Only the first replica of a host contributes its values.
        is_first = context.replica_id_in_sync_group % replicas_per_host == 0
        return tf.constant(values if is_first else [0] * len(values), tf.int32)

    parts = strategy.experimental_distribute_values_from_function(make_value)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy().tolist()


@contextlib.contextmanager
def translate_host_errors(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Raise UserError if another host of the run disappears inside the block."""
    index, _ = get_host_index(strategy)
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        # Storage raises the same classes of errors, but only collectives talk to other hosts.
        # TensorFlow writes "Collective" with and without a capital letter.
        if "collective" not in error.message.lower():
            raise
        # The message may also name this host, or a third one that only passed the error on.
        tasks = set(re.findall(r"/job:worker/replica:\d+/task:(\d+)", error.message))
        tasks.discard(str(index))
        culprit = f"worker {tasks.pop()}" if len(tasks) == 1 else "another worker"
        raise UserError(
            f"worker {index} has lost contact with {culprit} of this run; start the same command "
            "again, on any number of workers, to resume from the newest checkpoint"
        ) from error
