"""Guidance, and thresholding of the denoised estimate."""

import math

from keras import ops


def combine(estimates, scales):
    """Return base + sum_k scale_k (estimate_k - base), with the base's estimate last.

    With one condition and the unconditional estimate as the base, this is classifier-free guidance (Ho
    and Salimans, 2022), which a scale of 1 turns off. With several conditions, it is their conjunction
    (Liu et al., 2022, equation 11). With the estimate of a weaker model as the base, it is autoguidance
    (Karras et al., 2024).

    Args:
      estimates: float32 [B, K + 1, H, W, C], the denoised estimates of K conditions and of the base.
      scales: float32 [B, K].
    """
    rest = 1.0 - ops.sum(scales, axis=1, keepdims=True)
    return mix(estimates, ops.concatenate([scales, rest], axis=1))


def mix(estimates, weights):
    """Return the weighted sum of estimates, float32 [B, K, H, W, C], with weights float32 [B, K]."""
    return ops.sum(estimates * weights[:, :, None, None, None], axis=1)


def normalize(scales):
    """Return scales, float32 [B, K], divided by their sum, or equal weights if the sum is zero."""
    total = ops.sum(scales, axis=1, keepdims=True)
    return ops.where(total > 0, scales / ops.where(total > 0, total, 1.0), 1.0 / scales.shape[1])


def rescale(guided, conditional, strength: float):
    """Bring the contrast of guided estimates back towards that of the conditional ones.

    Large scales increase an image's standard deviation. Source: Lin et al., 2023, equations 15 and 16,
    here applied to the denoised estimate.

    Args:
      guided, conditional: float32 [B, H, W, C].
      strength: in [0, 1]. 1 gives each image the standard deviation of its conditional estimate.
    """
    axes = list(range(1, len(guided.shape)))
    ratio = ops.std(conditional, axis=axes, keepdims=True) / ops.maximum(
        ops.std(guided, axis=axes, keepdims=True), 1e-6
    )
    return guided * (strength * ratio + (1.0 - strength))


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
