"""Losses of the network's output, and their weights at each noise level.

To add one, write a function and register it in LOSSES or LOSS_WEIGHTS; its name must also be a
choice of `DiffusionConfig.loss` or `DiffusionConfig.loss_weight`.
"""

from keras import ops

from t2i_tpu.diffusion.path import snr
from t2i_tpu.diffusion.prediction import denoised_per_output

# Name -> elementwise function of the error, output - target, float32 [batch, ...].
LOSSES = {"absolute": ops.abs, "squared": ops.square}


def uniform(prediction_type: str, path, noise_level):
    """Return weight 1 at every noise level."""
    return ops.ones_like(noise_level)


def min_snr(prediction_type: str, path, noise_level):
    """Return the weight that turns the squared error of the output into min(SNR, 5) * that of x0.

    Source: Hang et al., 2023.
    """
    weight = ops.minimum(snr(path, noise_level), 5.0)
    return weight * ops.square(denoised_per_output(prediction_type, path, noise_level))


def velocity(prediction_type: str, path, noise_level):
    """Return the weight that turns the squared error of the output into that of the velocity.

    On both paths, an error of x0 implies an error of the velocity that is 1 / sigma times as large.
    Sigma is clamped to at least 0.1. Source: Li and He, 2025.
    """
    weight = 1.0 / ops.square(ops.maximum(path(noise_level).noise, 0.1))
    return weight * ops.square(denoised_per_output(prediction_type, path, noise_level))


# Name -> function of (prediction type, path, noise level float32 [batch]) that returns the weight
# of each example's error, float32 [batch].
LOSS_WEIGHTS = {"uniform": uniform, "min_snr": min_snr, "velocity": velocity}
