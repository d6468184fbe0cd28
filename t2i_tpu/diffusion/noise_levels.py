"""Distributions of the noise levels in training, as quantile functions.

Each function maps uniform draws in (0, 1) to noise levels in [0, 1]. The draws themselves are keyed
by seed, step and slot. To add a distribution, write a function and register it in NOISE_LEVELS; its
name must also be a choice of `DiffusionConfig.noise_levels`.
"""

import math

from keras import ops


def uniform(u):
    """Return the uniform draws unchanged."""
    return u


def half_normal(u):
    """Return quantiles of |N(0, 1)| truncated at 3 and divided by 3.

    This is the baseline's distribution. It favors low noise levels.
    """
    return ops.erfinv(u * math.erf(3 / math.sqrt(2))) * (math.sqrt(2) / 3)


def logit_normal(u):
    """Return quantiles of sigmoid(N(0, 1)), which favors the middle of the path.

    Source: Esser et al., 2024, section 3.1.
    """
    return ops.sigmoid(math.sqrt(2) * ops.erfinv(2 * u - 1))


def shifted(u, shift: float = 3.0):
    """Return uniform levels shifted towards noise (Esser et al., 2024, equation 23).

    Up to a level of about 0.9, the noisy version of a 32x32 image still distinguishes it from
    thousands of others, so the denoiser does not need the prompt. It learns to use the prompt only
    from higher levels, which make up 25% of these draws, 10% of uniform draws and 1.4% of
    logit-normal draws.
    """
    return shift * u / (1 + (shift - 1) * u)


NOISE_LEVELS = {
    "uniform": uniform,
    "half_normal": half_normal,
    "logit_normal": logit_normal,
    "shifted": shifted,
}
