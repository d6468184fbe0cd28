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
    """Return weight 1 for the squared error of the output."""
    return ops.ones_like(noise_level)


def min_snr(prediction_type: str, path, noise_level):
    """Return the weight that gives the squared error of x0 weight min(SNR, 5).

    Source: Hang et al., 2023.
    """
    weight = ops.minimum(snr(path, noise_level), 5.0)
    return weight * ops.square(denoised_per_output(prediction_type, path, noise_level))


def velocity(prediction_type: str, path, noise_level):
    """Return the weight that gives the squared error of the implied velocity weight 1.

    On both paths, an error of x0 is an error of the velocity of 1 / sigma times its size. Sigma is
    kept above 0.1. Source: Li and He, 2025.
    """
    weight = 1.0 / ops.square(ops.maximum(path(noise_level).noise, 0.1))
    return weight * ops.square(denoised_per_output(prediction_type, path, noise_level))


# Name -> function (prediction type, path, noise_level float32 [batch]) of the weight of each
# example's squared error.
LOSS_WEIGHTS = {"uniform": uniform, "min_snr": min_snr, "velocity": velocity}
