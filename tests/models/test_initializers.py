"""Tests that initial weights have the distributions of Keras' defaults, and depend on the seed alone."""

import keras
import numpy as np
import pytest

from t2i_tpu.models import initializers


@pytest.mark.parametrize("shape", [(40, 50), (3, 3, 20, 30), (1, 1, 40, 50)])
def test_glorot_uniform_has_the_bounds_of_keras(shape):
    """The bounds of a uniform distribution are close to the extremes of many draws."""
    keras.utils.set_random_seed(3)
    ours = initializers.GlorotUniform()(shape)
    theirs = np.asarray(keras.initializers.GlorotUniform(seed=1)(shape))
    assert ours.shape == shape and ours.dtype == np.float32
    for bound in (np.min, np.max):
        assert bound(ours) == pytest.approx(bound(theirs), rel=0.01)
    # The variance of a uniform distribution is a twelfth of the square of its width.
    assert ours.var() == pytest.approx(np.ptp(theirs) ** 2 / 12, rel=0.06)


def test_embeddings_have_the_bounds_of_keras():
    keras.utils.set_random_seed(3)
    ours = initializers.Uniform()((50, 40))
    theirs = np.asarray(keras.initializers.RandomUniform(seed=1)((50, 40)))
    for bound in (np.min, np.max):
        assert bound(ours) == pytest.approx(bound(theirs), rel=0.01)


def test_normal_draws_have_their_standard_deviation_and_never_change():
    first, second = (initializers.Normal(0.5)((40, 50)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.std() == pytest.approx(0.5, rel=0.06) and abs(first.mean()) < 0.05


def build_layers():
    layers = [
        initializers.dense(5),
        initializers.dense(5),
        initializers.convolution(4),
        initializers.embedding(7, 5),
    ]
    for layer, shape in zip(layers, [(1, 6), (1, 6), (1, 8, 8, 3), (1,)], strict=True):
        layer.build(shape)
    return [layer.weights[0].numpy() for layer in layers]


def test_weights_are_a_function_of_the_seed():
    draws = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        draws.append(build_layers())
    for first, again, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(first, again)
        assert not np.any(first == other)
    # Two layers of one shape draw different numbers.
    assert not np.any(draws[0][0] == draws[0][1])


def test_layers_of_a_seed_start_from_fixed_numbers():
    """A run that is repeated with another version of NumPy or Keras starts from the same weights."""
    keras.utils.set_random_seed(0)
    kernel = initializers.GlorotUniform()((2, 2))
    np.testing.assert_allclose(kernel, [[0.4484112, 1.149777], [0.1901892, -0.7777690]], rtol=1e-6)
