"""The path from image to noise: x_noisy = signal_scale * x + noise_scale * z, z ~ N(0, 1).

A path is a pair of scales over noise_level in [0, 1] (0 = clean, 1 = noise) and their derivatives,
up to one common factor. All of it works on numpy arrays and on backend tensors alike.
"""

import math
from typing import NamedTuple

import numpy as np
from keras import ops


class Scales(NamedTuple):
    signal: object  # alpha
    noise: object  # sigma
    signal_slope: object  # d alpha / d noise_level, up to the path's common factor
    noise_slope: object  # d sigma / d noise_level, likewise


def linear(noise_level) -> Scales:
    """Straight line: rectified flow (Liu et al., 2022), and the baseline's."""
    one = noise_level * 0 + 1
    return Scales(1 - noise_level, noise_level, -one, one)


def cosine(noise_level) -> Scales:
    """Variance preserving: an angle from 0 to pi/2 (Salimans and Ho, 2022)."""
    library = np if isinstance(noise_level, (float, np.ndarray)) else ops
    angle = noise_level * (math.pi / 2)
    signal, noise = library.cos(angle), library.sin(angle)
    return Scales(signal, noise, -noise, signal)


PATHS = {"linear": linear, "cosine": cosine}


def corrupt(path, x, z, noise_level):
    """x, z [batch, ...] and noise_level broadcastable to them -> x_noisy."""
    scales = path(noise_level)
    return scales.signal * x + scales.noise * z


def snr(path, noise_level):
    """Signal-to-noise ratio (alpha / sigma)**2, kept finite at both ends."""
    scales = path(noise_level)
    ratio = ops.maximum(scales.signal, 1e-4) / ops.maximum(scales.noise, 1e-4)
    return ratio * ratio
