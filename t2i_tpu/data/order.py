"""The order of the training examples, which depends on seed and step but not on the hosts.

With S streams and global batch size B, slot j of step t reads stream s = j mod S at position
(t * B + j) // S. In each epoch, a stream visits its shards in a shuffled order and reads the records
of each shard in a shuffled order; both orders are keyed by (seed, stream, epoch). A host reads only
the streams of its own slots.
"""

import numpy as np
import tensorflow as tf

from t2i_tpu import random
from t2i_tpu.errors import UserError


def check_batch_divides(global_batch_size: int, num_streams: int, num_hosts: int) -> None:
    """Check that every stream and every host gets equally many examples of a batch.

    Args:
      global_batch_size: number of examples of a step.
      num_streams: number of streams of the split.
      num_hosts: number of hosts that share the streams.

    Raises:
      UserError: the batch size is not a multiple of the number of streams, or the number of streams is
        not a multiple of the number of hosts.
    """
    if global_batch_size % num_streams:
        raise UserError(
            f"config.train.global_batch_size is {global_batch_size}; the data set has {num_streams} "
            f"streams, so it must be a multiple of {num_streams}"
        )
    if num_streams % num_hosts:
        raise UserError(
            f"{num_hosts} hosts cannot share {num_streams} streams evenly; use a number of hosts "
            f"that divides {num_streams}, or prepare the data set with more streams"
        )


class StreamOrder:
    """The shards of one stream in the order in which training visits them.

    A visit is one pass over one shard. Visits are counted through all epochs: with 3 shards, visit
    7 is the second one of epoch 2. For example, a stream with shards of 4, 4 and 2 records reaches
    position 25 in epoch 2 (10 records per epoch) at offset 5, which is record 1 of that epoch's
    second shard if that epoch begins with a shard of 4. So `first_visit` is 7 and `skip` is 1.

    Attributes:
      first_visit: the visit with the first record to read.
      skip: number of records of that visit that come before it.
    """

    def __init__(self, seed: int, stream: int, counts: np.ndarray, position: int):
        """Find the visit and the record at a position.

        Args:
          seed: the seed of the run.
          stream: the index of the stream.
          counts: the number of records of each shard, int64 [shards].
          position: the position of the first record to read, counted from the start of training.
        """
        self.seed, self.stream, self.counts = seed, stream, counts
        epoch, offset = divmod(position, int(counts.sum()))
        ends = np.cumsum(counts[self._order_shards(epoch).numpy()])
        visit = int(np.searchsorted(ends, offset, side="right"))
        self.first_visit = epoch * len(counts) + visit
        self.skip = offset - (int(ends[visit - 1]) if visit else 0)

    def shard_of(self, visit: tf.Tensor) -> tf.Tensor:
        """Return the index of the shard that a visit reads."""
        return self._order_shards(visit // len(self.counts))[visit % len(self.counts)]

    def records_of(self, visit: tf.Tensor, shard: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Return the indices of the records that a visit reads, in order, int32 [records].

        Args:
          visit: the number of the visit.
          shard: the shard that it reads, from `shard_of`.
          count: the number of records of that shard.
        """
        epoch = visit // len(self.counts)
        order = _shuffle_range(self.seed, self.stream, epoch, shard + 1, count)
        return order[tf.where(visit == self.first_visit, self.skip, 0) :]

    def _order_shards(self, epoch) -> tf.Tensor:
        return _shuffle_range(self.seed, self.stream, epoch, 0, len(self.counts))


def _shuffle_range(seed, stream, epoch, use, size):
    """Return a shuffle of range(size), int32 [size], keyed by (seed, stream, epoch, use).

    `use` distinguishes the shuffles of one epoch: it is 0 for the order of the shards, and 1 + i for
    the records of shard i.
    """
    scalars = (tf.cast(value, tf.int64) for value in (stream, epoch, use, size))
    return _shuffle_range_of_tensors(seed, *scalars)


@tf.function(autograph=False)  # traced once instead of once per stream
def _shuffle_range_of_tensors(seed, stream, epoch, use, size):
    # The tensors are TensorFlow's on both engines, but keras.ops works on those of the backend only.
    def encrypt(key, *counter):
        words = [tf.cast(word, tf.uint32) for word in counter]
        return random.threefry2x32(key, words, bits=tf.bitwise)

    key = encrypt((np.uint32(seed), np.uint32(random.Purpose.SHUFFLE)), epoch, stream)
    counter = tf.range(tf.cast(size, tf.int32))
    draws, _ = encrypt(key, tf.fill(tf.shape(counter), tf.cast(use, tf.int32)), counter)
    return tf.argsort(tf.cast(draws, tf.int64), stable=True)
