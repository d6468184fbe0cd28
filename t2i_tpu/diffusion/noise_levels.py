"""The distributions that training draws its noise levels from, as quantile functions.

Each takes uniforms in (0, 1) and gives noise levels in [0, 1], so that the draw stays keyed.
"""

import math

from keras import ops


def uniform(u):
    return u


def half_normal(u):
    """|N(0, 1)| cut at 3, divided by 3: the baseline's, with more mass near 0."""
    return ops.erfinv(u * math.erf(3 / math.sqrt(2))) * (math.sqrt(2) / 3)


def logit_normal(u):
    """sigmoid(N(0, 1)): most weight on the middle of the path (Esser et al., 2024, section 3.1)."""
    return ops.sigmoid(math.sqrt(2) * ops.erfinv(2 * u - 1))


def shifted(u, shift: float = 3.0):
    """Uniform levels moved towards noise (Esser et al., 2024, equation 23).

    A 32x32 image can be told from thousands of others up to a level of about 0.9. Only beyond it
    does the denoiser need the prompt, and so learn it: 25% of these levels, 10% of uniform ones,
    1.4% of logit-normal ones.
    """
    return shift * u / (1 + (shift - 1) * u)


NOISE_LEVELS = {
    "uniform": uniform,
    "half_normal": half_normal,
    "logit_normal": logit_normal,
    "shifted": shifted,
}
