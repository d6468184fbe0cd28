"""Counter-based random numbers: every draw is a function of (seed, purpose, step, slot).

Threefry-2x32 with 20 rounds (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3",
section 4.2; the generator of JAX). It is nothing but 32-bit adds, rotations and xors, so that CPU,
GPU and TPU, TensorFlow and JAX, one replica and a pod all draw the same bits.
"""

import enum
import math

from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_VECTOR = 16  # floats in the widest register of a CPU


class Purpose(enum.IntEnum):
    """What a draw is for; draws for two purposes are independent."""

    NOISE = 0
    NOISE_LEVEL = 1
    COND_DROPOUT = 2
    FLIP = 3
    SAMPLE = 4
    SHUFFLE = 5


def keys(seed: int, purpose: Purpose, step, slots):
    """Keys of the draws of one step: a pair of uint32 [batch].

    Args:
      seed: of the run, in [0, 2**32).
      purpose: what is drawn.
      step: integer scalar, the global step (0 for sampling).
      slots: integer [batch], position in the global batch (the image's own seed for sampling).
    """
    slots = ops.cast(slots, "uint32")
    step = ops.broadcast_to(ops.cast(step, "uint32"), ops.shape(slots))
    return threefry2x32((_word(seed), _word(purpose)), (step, slots))


def threefry2x32(key, counter):
    """The block cipher: a pair of uint32 keys and a pair of uint32 counters -> a pair of uint32."""
    key = (*key, ops.bitwise_xor(ops.bitwise_xor(key[0], key[1]), _word(0x1BD11BDA)))
    first, second = counter[0] + key[0], counter[1] + key[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second
            second = ops.bitwise_xor(_rotate_left(second, rotation), first)
        first = first + key[(group + 1) % 3]
        second = second + key[(group + 2) % 3] + _word(group + 1)
    return first, second


def uniform(key):
    """One float32 [batch] in (0, 1) per key, on a grid of 2**-24."""
    return _to_unit(threefry2x32(key, (ops.zeros_like(key[0]), ops.zeros_like(key[1])))[0])


def normal(key, shape: tuple[int, ...]):
    """Standard normals, float32 [batch, *shape], by Box and Muller (1958)."""
    size = math.prod(shape)
    half = (size + 1) // 2
    # In whole vector registers, or a remainder's logarithm would depend on the batch by a last bit.
    count = -(-half // _VECTOR) * _VECTOR
    counter = ops.expand_dims(ops.cast(ops.arange(count, dtype="int32"), "uint32"), 0)
    column = tuple(ops.expand_dims(part, 1) for part in key)
    first, second = threefry2x32(column, (counter, ops.zeros_like(counter)))
    radius = ops.sqrt(-2.0 * ops.log(_to_unit(first)))
    angle = (2.0 * math.pi) * _to_unit(second)
    parts = [(radius * ops.cos(angle))[:, :half], (radius * ops.sin(angle))[:, :half]]
    return ops.reshape(ops.concatenate(parts, axis=1)[:, :size], (-1, *shape))


def _word(value: int):
    return ops.convert_to_tensor(int(value), dtype="uint32")


def _rotate_left(word, bits: int):
    return ops.bitwise_or(
        ops.left_shift(word, _word(bits)), ops.right_shift(word, _word(32 - bits))
    )


def _to_unit(bits):
    # 23 bits and a half: exact in float32, never 0 (log) and never 1.
    return (ops.cast(ops.right_shift(bits, _word(9)), "float32") + 0.5) * 2.0**-23
