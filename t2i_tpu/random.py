"""Counter-based random numbers: every draw is a function of (seed, purpose, step, slot).

The generator is Threefry-2x32 with 20 rounds (Salmon et al., 2011, "Parallel random numbers: as
easy as 1, 2, 3", section 4.2), which JAX uses too. It uses only 32-bit additions, rotations
and xors, so CPU, GPU and TPU, TensorFlow and JAX, one replica and a pod all draw the same bits.
"""

import enum
import math

import numpy as np
from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_VECTOR = 16  # number of float32 values in the widest vector register of a CPU


class Purpose(enum.IntEnum):
    """The purposes of draws. Draws for different purposes are independent."""

    NOISE = 0
    NOISE_LEVEL = 1
    COND_DROPOUT = 2
    FLIP = 3
    SAMPLE = 4
    SHUFFLE = 5
    SAMPLER_NOISE = 6
    EVALUATION = 7


def make_keys(seed: int, purpose: Purpose, step, slots):
    """Return the keys of one step's draws, a pair of uint32 [batch].

    Args:
      seed: the seed of the run, in [0, 2**32).
      purpose: what the draws are for.
      step: integer scalar, the global step. In sampling, the number of the draw; in shuffling,
        the epoch.
      slots: integer [batch], positions in the global batch. In sampling, each image's own seed;
        in shuffling, the stream.
    """
    slots = ops.cast(slots, "uint32")
    step = ops.broadcast_to(ops.cast(step, "uint32"), ops.shape(slots))
    return threefry2x32((np.uint32(seed), np.uint32(purpose)), (step, slots))


def threefry2x32(key, counter, bits=ops):
    """Encrypt a pair of uint32 counters with a pair of uint32 keys; return a pair of uint32.

    Args:
      key, counter: pairs of tensors that can be broadcast to each other. A key may also be a pair of
        NumPy scalars.
      bits: the module with the bitwise operations for the tensors: `tf.bitwise` for tensors of
        TensorFlow if Keras has another backend.
    """

    def rotate_left(word, distance: int):
        left = bits.left_shift(word, np.uint32(distance))
        return bits.bitwise_or(left, bits.right_shift(word, np.uint32(32 - distance)))

    parity = bits.bitwise_xor(bits.bitwise_xor(key[0], key[1]), np.uint32(0x1BD11BDA))
    key = (*key, parity)
    first, second = counter[0] + key[0], counter[1] + key[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = bits.bitwise_xor(rotate_left(second, distance), first)
        first = first + key[(group + 1) % 3]
        second = second + key[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def uniform(key):
    """Return a uniform draw in (0, 1) for each key, float32 [batch].

    Every draw is an odd multiple of 2**-24.
    """
    return _to_unit(threefry2x32(key, (ops.zeros_like(key[0]), ops.zeros_like(key[1])))[0])


def normal(key, shape: tuple[int, ...]):
    """Return standard normal draws by the method of Box and Muller (1958), float32 [batch, *shape]."""
    size = math.prod(shape)
    half = (size + 1) // 2
    # Fill complete vector registers. A partial one uses another implementation of the logarithm, so
    # the last bit would depend on the batch size.
    count = -(-half // _VECTOR) * _VECTOR
    counter = ops.expand_dims(ops.cast(ops.arange(count, dtype="int32"), "uint32"), 0)
    column = tuple(ops.expand_dims(part, 1) for part in key)
    first, second = threefry2x32(column, (counter, ops.zeros_like(counter)))
    radius = ops.sqrt(-2.0 * ops.log(_to_unit(first)))
    angle = (2.0 * math.pi) * _to_unit(second)
    parts = [(radius * ops.cos(angle))[:, :half], (radius * ops.sin(angle))[:, :half]]
    return ops.reshape(ops.concatenate(parts, axis=1)[:, :size], (-1, *shape))


def _to_unit(bits):
    # The 23 highest bits plus one half are exact in float32, never 0 (for the log) and never 1.
    return (ops.cast(ops.right_shift(bits, np.uint32(9)), "float32") + 0.5) * 2.0**-23
