"""Prediction types: the network's training target, and the conversion of its output to an image.

The target is p x0 + q z, a linear combination of the clean image x0 and its noise z. With the
path's scales alpha and sigma, the coefficients are:

  type       p       q
  denoised   1       0
  noise      0       1       Ho et al., 2020
  v          -sigma  alpha   Salimans and Ho, 2022
  velocity   alpha'  sigma'  d x / d noise_level: Lipman et al., 2022; Liu et al., 2022
"""

from keras import ops

# Prediction type -> (p, q) as a function of the path's scales.
PREDICTIONS = {
    "denoised": lambda scales: (1.0, 0.0),
    "noise": lambda scales: (0.0, 1.0),
    "v": lambda scales: (-scales.noise, scales.signal),
    "velocity": lambda scales: (scales.signal_slope, scales.noise_slope),
}


def target(prediction_type: str, path, x0, z, noise_level):
    """Return the network's training target, shaped like the image x0 and its noise z."""
    p, q = PREDICTIONS[prediction_type](path(noise_level))
    return p * x0 + q * z


def to_denoised(prediction_type: str, path, output, x_noisy, noise_level):
    """Return the estimate of x0 implied by the network's float32 output.

    It solves output = p x0 + q z and x_noisy = alpha x0 + sigma z for x0.
    """
    if prediction_type == "denoised":
        return output
    scales = path(noise_level)
    _, q = PREDICTIONS[prediction_type](scales)
    return (q * x_noisy - scales.noise * output) / _determinant(prediction_type, scales)


def denoised_per_output(prediction_type: str, path, noise_level):
    """Return |d x0 / d output|, which converts an error of the output into an error of x0."""
    if prediction_type == "denoised":
        return ops.ones_like(noise_level)
    scales = path(noise_level)
    return scales.noise / _determinant(prediction_type, scales)


def _determinant(prediction_type, scales):
    """Return alpha q - sigma p, the determinant of the two equations in `to_denoised`.

    It is 1 for velocity, 1 for v on the cosine path, and alpha for noise; alpha is clamped because
    it is zero at level 1. For denoised it would be -sigma, which is zero at level 0, so the callers
    handle that type separately.
    """
    p, q = PREDICTIONS[prediction_type](scales)
    return ops.maximum(scales.signal * q - scales.noise * p, 1e-3)
