"""What the network predicts, and the way between its output and the denoised image.

With alpha, sigma the path's scales and a dot for their slopes, each type is a line through (x0, z):

  denoised   x0
  noise      z                                  Ho et al., 2020
  v          alpha z - sigma x0                 Salimans and Ho, 2022
  velocity   alpha' x0 + sigma' z = d x / d n   Lipman et al., 2022; Liu et al., 2022
"""

from keras import ops

from t2i_tpu.diffusion.path import snr


def target(prediction_type: str, path, x0, z, noise_level):
    """What the network should have put out; shapes as x0."""
    image, noise = _line(prediction_type, path(noise_level))
    return image * x0 + noise * z


def denoised(prediction_type: str, path, output, x_noisy, noise_level):
    """The network's output, in float32, as an estimate of x0.

    Solves output = p x0 + q z, x_noisy = alpha x0 + sigma z for x0. The determinant is 1 for v and
    velocity on their own paths; for `noise` it is alpha, which is kept from zero.
    """
    scales = path(noise_level)
    image, noise = _line(prediction_type, scales)
    determinant = scales.signal * noise - scales.noise * image
    tiny = 1e-3
    determinant = ops.where(
        ops.abs(determinant) < tiny, ops.where(determinant < 0, -tiny, tiny), determinant
    )
    if prediction_type == "denoised":
        return output  # and not noise / noise, which has no value at noise_level 0
    return (noise * x_noisy - scales.noise * output) / determinant


def loss_weight(name: str, prediction_type: str, path, noise_level):
    """Weight of the error of the network's output at each noise level.

    min_snr: weight min(SNR, 5) on the squared error of x0 (Hang et al., 2023), carried over to
    the output's own error.
    """
    if name == "uniform":
        return ops.ones_like(noise_level)
    scales = path(noise_level)
    image, noise = _line(prediction_type, scales)
    # d x0 / d output, squared, turns an error of the output into one of x0.
    determinant = scales.signal * noise - scales.noise * image
    gain = (
        1.0
        if prediction_type == "denoised"
        else ops.square(scales.noise / ops.where(determinant == 0, 1e-3, determinant))
    )
    return ops.minimum(snr(path, noise_level), 5.0) * gain


def _line(prediction_type, scales):
    """Coefficients (p, q) of x0 and z in the prediction."""
    one = scales.signal * 0 + 1
    return {
        "denoised": (one, one * 0),
        "noise": (one * 0, one),
        "v": (-scales.noise, scales.signal),
        "velocity": (scales.signal_slope, scales.noise_slope),
    }[prediction_type]
