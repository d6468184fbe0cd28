"""The generator gives Random123's published vectors, and its draws have the right distributions."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu import random
from t2i_tpu.random import Purpose, make_keys, normal, threefry2x32, uniform

# threefry2x32, 20 rounds, of Random123's tests/kat_vectors: counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
MANY = 100_000


def make_words(pair):
    return tuple(tf.constant([word], tf.uint32) for word in pair)


def make_slots(count=MANY, start=0):
    return np.arange(start, start + count, dtype="int32")


def correlate(first, second):
    return np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]


def measure_distance(sample, cdf):
    """Return the Kolmogorov-Smirnov distance between a sample and a distribution."""
    x = np.sort(np.ravel(sample).astype("float64"))
    expected = np.array([cdf(value) for value in x])
    steps = np.arange(len(x) + 1) / len(x)
    return max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_threefry_gives_the_published_vectors(counter, key, expected):
    result = threefry2x32(make_words(key), make_words(counter))
    assert tuple(int(word[0]) for word in result) == expected


def test_keys_follow_their_definition():
    (step, slot), (seed, purpose) = (5, 9), (77, Purpose.FLIP)
    expected = threefry2x32(make_words((seed, int(purpose))), make_words((step, slot)))
    actual = make_keys(seed, purpose, tf.constant(step, tf.int64), np.array([8, 9]))
    assert [int(part[1]) for part in actual] == [int(part[0]) for part in expected]
    assert int(actual[0][0]) != int(actual[0][1])


def test_normal_follows_its_definition():
    u, v = ((word >> 9) / 2**23 + 2.0**-24 for word in (0x6B200159, 0x99BA4EFE))
    radius = math.sqrt(-2 * math.log(u))
    expected = [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    np.testing.assert_allclose(normal(make_words((0, 0)), (2,))[0], expected, rtol=1e-5)


def test_uniform_never_reaches_an_end():
    ends = np.asarray(random._to_unit(tf.constant([0, 0xFFFFFFFF], tf.uint32)))
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]


def test_uniform_is_uniform():
    drawn = np.asarray(uniform(make_keys(0, Purpose.NOISE_LEVEL, 0, make_slots())))
    assert drawn.shape == (MANY,)
    assert drawn.dtype == np.float32
    assert measure_distance(drawn, lambda x: x) < 1.95 / math.sqrt(MANY)  # p = 0.001


@pytest.mark.parametrize("shape", [(5, 5, 3), (4, 2, 1), (1,)])  # of odd and even size
def test_normal_is_normal(shape):
    drawn = np.asarray(
        normal(make_keys(3, Purpose.NOISE, 2, make_slots(MANY // math.prod(shape))), shape)
    )
    assert drawn.shape[1:] == shape
    z, count = drawn.astype("float64").ravel(), drawn.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - moment) < 4 * math.sqrt(variance / count), power
    assert measure_distance(z, NormalDist().cdf) < 1.95 / math.sqrt(count)


def test_two_halves_of_a_normal_draw_are_independent():
    drawn = np.asarray(normal(make_keys(0, Purpose.NOISE, 0, make_slots(50_000)), (2,)))
    limit = 4 / math.sqrt(50_000)
    assert abs(correlate(drawn[:, 0], drawn[:, 1])) < limit
    assert abs(correlate(drawn[:, 0] ** 2, drawn[:, 1] ** 2)) < limit


@pytest.mark.parametrize(
    "other",
    [
        (1, Purpose.NOISE, 0, 0),
        (0, Purpose.SAMPLE, 0, 0),
        (0, Purpose.NOISE_LEVEL, 0, 0),
        (0, Purpose.NOISE, 1, 0),
        (0, Purpose.NOISE, 0, 1),
    ],
    ids=["seed", "sample", "noise_level", "step", "next slot"],
)
def test_draws_of_another_seed_purpose_step_or_slot_are_independent(other):
    *rest, offset = other
    first = np.asarray(normal(make_keys(0, Purpose.NOISE, 0, make_slots()), (1,)))
    second = np.asarray(normal(make_keys(*rest, make_slots(start=offset)), (1,)))
    assert abs(correlate(first, second)) < 4 / math.sqrt(MANY)
    assert np.mean(first == second) < 1e-4


@pytest.mark.parametrize("shape", [(3, 3, 1), (5, 5, 3)])  # neither fills a vector register
def test_draw_of_a_slot_does_not_depend_on_its_batch(shape):
    """Not even the last bit does, although a vector register's logarithm may differ from a scalar's."""
    keys = make_keys(1, Purpose.NOISE, 7, make_slots(33))
    noise, levels = np.asarray(normal(keys, shape)), np.asarray(uniform(keys))
    for slot in range(33):
        alone = make_keys(1, Purpose.NOISE, 7, np.array([slot]))
        np.testing.assert_array_equal(noise[slot], normal(alone, shape)[0])
        np.testing.assert_array_equal(levels[slot], uniform(alone)[0])


@pytest.mark.host_xla
def test_draw_is_the_same_in_a_compiled_function():
    def draw(step):
        return uniform(make_keys(1, Purpose.NOISE, step, make_slots(16)))

    step = tf.constant(12, tf.int64)
    expected = draw(step).numpy()
    np.testing.assert_array_equal(tf.function(draw)(step), expected)
    np.testing.assert_array_equal(tf.function(draw, jit_compile=True)(step), expected)
