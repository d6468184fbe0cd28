"""Paths from image to noise: x_noisy = signal_scale * x + noise_scale * z with z ~ N(0, 1).

A path maps noise_level in [0, 1] (0 is clean, 1 is pure noise) to the two scales and to their
derivatives, both divided by the same constant. To add a path, write a function and register it
in PATHS; its name must also be a choice of `DiffusionConfig.path`.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops


class Scales(NamedTuple):
    """The scales of a path at some noise levels. All fields have the shape of the levels."""

    signal: object  # alpha
    noise: object  # sigma
    # The derivatives with respect to the noise level, both divided by the same constant (1 for
    # linear, pi / 2 for cosine). Samplers should use differences of the scales instead.
    signal_slope: object
    noise_slope: object


def linear(noise_level) -> Scales:
    """Return the scales of rectified flow's straight line (Liu et al., 2022).

    The baseline uses this path too.
    """
    one = noise_level * 0 + 1
    return Scales(1 - noise_level, noise_level, -one, one)


def cosine(noise_level) -> Scales:
    """Return the scales of the variance-preserving cosine path (Salimans and Ho, 2022)."""
    library = np if isinstance(noise_level, (float, np.ndarray)) else ops
    angle = noise_level * (math.pi / 2)
    # Unlike cos(angle), this is exactly 0 at level 1.
    signal = library.sin((1 - noise_level) * (math.pi / 2))
    noise = library.sin(angle)
    return Scales(signal, noise, -noise, signal)


PATHS = {"linear": linear, "cosine": cosine}


def corrupt(path, x, z, noise_level):
    """Return the noisy images, signal_scale * x + noise_scale * z.

    Args:
      path: a function from PATHS.
      x: the clean images, [batch, ...].
      z: standard normal noise, shaped like x.
      noise_level: in [0, 1], broadcastable to x.
    """
    scales = path(noise_level)
    return scales.signal * x + scales.noise * z


def snr(path, noise_level):
    """Return the signal-to-noise ratio (alpha / sigma)**2, kept finite at both ends of the path."""
    scales = path(noise_level)
    ratio = ops.maximum(scales.signal, 1e-4) / ops.maximum(scales.noise, 1e-4)
    return ratio * ratio
