"""Classifier-free guidance, and thresholding of the denoised estimate."""

import math

from keras import ops


def guide(conditional, unconditional, guidance_scale: float):
    """Return w * conditional + (1 - w) * unconditional, with w the guidance scale.

    A scale of 1 turns guidance off. Source: Ho and Salimans, 2022.
    """
    return guidance_scale * conditional + (1 - guidance_scale) * unconditional


def threshold(x, percentile: float):
    """Apply dynamic thresholding (Saharia et al., 2022, section 2.3) to each image separately.

    With s = max(1, percentile of |x|), values are clipped to [-s, s] and the image is divided by s.
    A percentile of 0 clips the image to [-1, 1] instead.

    Args:
      x: float32 [batch, ...].
      percentile: in [0, 100). It is interpolated linearly, as in numpy.percentile.
    """
    if not percentile:
        return ops.clip(x, -1.0, 1.0)
    flat = ops.reshape(ops.abs(x), (ops.shape(x)[0], -1))
    size = flat.shape[1] or math.prod(x.shape[1:])
    position = percentile / 100 * (size - 1)
    low = math.floor(position)
    largest = ops.top_k(flat, size - low)[0]
    low_value = largest[:, -1]
    high_value = largest[:, -2] if low + 1 < size else low_value
    bound = low_value + (position - low) * (high_value - low_value)
    bound = ops.reshape(ops.maximum(bound, 1.0), (-1, *[1] * (len(x.shape) - 1)))
    return ops.clip(x, -bound, bound) / bound
