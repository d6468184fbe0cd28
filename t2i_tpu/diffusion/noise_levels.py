"""The distributions that training draws its noise levels from, as quantile functions.

Each takes uniforms in (0, 1) and gives noise levels in [0, 1], so that the draw stays keyed.
"""

import math

from keras import ops


def uniform(u):
    return u


def half_normal(u):
    """|N(0, 1)| cut at 3, divided by 3: the ancestor's, with more mass near 0."""
    return ops.erfinv(u * math.erf(3 / math.sqrt(2))) * (math.sqrt(2) / 3)


def logit_normal(u):
    """sigmoid(N(0, 1)): most weight on the middle of the path (Esser et al., 2024, section 3.1)."""
    return ops.sigmoid(math.sqrt(2) * ops.erfinv(2 * u - 1))


NOISE_LEVELS = {"uniform": uniform, "half_normal": half_normal, "logit_normal": logit_normal}
