"""What several hosts of one run must agree on between two device loops, and the loss of one."""

import contextlib
import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run.strategy import get_host_index


def sum_over_hosts(strategy: tf.distribute.Strategy, values: Sequence[int]) -> list[int]:
    """The sum over hosts of each one's `values`; every host must call it, and gets the same."""
    _, num_hosts = get_host_index(strategy)
    if num_hosts == 1:
        return list(values)
    per_host = strategy.num_replicas_in_sync // num_hosts

    def mine(context):
        first = context.replica_id_in_sync_group % per_host == 0
        return tf.constant(values, tf.int32) * int(first)

    parts = strategy.experimental_distribute_values_from_function(mine)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy().tolist()


@contextlib.contextmanager
def translate_host_errors(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """A host that is gone is a UserError on the others: they cannot go on without it."""
    this, _ = get_host_index(strategy)
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if "ollective" not in error.message:
            raise
        # A host may only hear of it from a third one, or in a message that names itself.
        named = set(re.findall(r"/job:worker/replica:\d+/task:(\d+)", error.message)) - {str(this)}
        who = f"worker {named.pop()}" if len(named) == 1 else "another worker"
        raise UserError(
            f"{who} of this run is gone, as it seems from worker {this}; start the same command "
            "again, on as many workers as you like: it goes on from the newest checkpoint"
        ) from error
