"""Initial weights that are the same on every backend, and the layers that start from them.

Keras draws initial weights with the random generator of its backend, so a run would depend on the
backend. The seeds come from Python's generator, which `keras.utils.set_random_seed` seeds.
"""

import math
import random

import numpy as np
from keras import initializers, layers


class GlorotUniform(initializers.Initializer):
    """Draws from the distribution of Glorot and Bengio (2010), the default of Keras."""

    def __init__(self):
        self.seed = random.getrandbits(32)

    def __call__(self, shape, dtype=None):
        receptive_field = math.prod(shape[:-2])
        limit = math.sqrt(6.0 / (receptive_field * (shape[-2] + shape[-1])))
        return _draw(self.seed).uniform(-limit, limit, shape).astype("float32")


class Uniform(initializers.Initializer):
    """Draws uniformly from [-0.05, 0.05], the default of Keras' embeddings."""

    def __init__(self):
        self.seed = random.getrandbits(32)

    def __call__(self, shape, dtype=None):
        return _draw(self.seed).uniform(-0.05, 0.05, shape).astype("float32")


class Normal(initializers.Initializer):
    """Draws from a normal distribution with mean 0, always the same numbers."""

    def __init__(self, stddev: float):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        return _draw(0).normal(0.0, self.stddev, shape).astype("float32")


def dense(width: int, **kwargs) -> layers.Layer:
    """Return a dense layer."""
    return layers.Dense(width, **{"kernel_initializer": GlorotUniform()} | kwargs)


def convolution(width: int, kernel_size: int = 3, **kwargs) -> layers.Layer:
    """Return a 2D convolution, with "same" padding by default."""
    defaults = {"kernel_initializer": GlorotUniform(), "padding": "same"}
    return layers.Conv2D(width, kernel_size, **defaults | kwargs)


def embedding(count: int, width: int, **kwargs) -> layers.Layer:
    """Return a table of `count` trained vectors."""
    return layers.Embedding(count, width, embeddings_initializer=Uniform(), **kwargs)


def _draw(seed: int) -> np.random.RandomState:
    """Return a generator whose numbers do not depend on the version of NumPy."""
    return np.random.RandomState(seed)
