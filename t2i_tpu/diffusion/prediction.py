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
    """The network's output, in float32, as an estimate of x0: the solution of output = p x0 + q z
    and x_noisy = alpha x0 + sigma z."""
    if prediction_type == "denoised":
        return output
    scales = path(noise_level)
    _, noise = _line(prediction_type, scales)
    return (noise * x_noisy - scales.noise * output) / _determinant(prediction_type, scales)


def loss_weight(name: str, prediction_type: str, path, noise_level):
    """Weight of the squared error of the network's output at each noise level.

    min_snr: as weight min(SNR, 5) on the error of x0 (Hang et al., 2023).
    velocity: as weight 1 on the error of the velocity that the output means (Li and He, 2025),
      with sigma kept above 0.1.
    """
    if name == "uniform":
        return ops.ones_like(noise_level)
    scales = path(noise_level)
    if name == "min_snr":
        weight = ops.minimum(snr(path, noise_level), 5.0)
    else:  # on both paths an error of x0 is one of the velocity of 1 / sigma times its size
        weight = 1.0 / ops.square(ops.maximum(scales.noise, 0.1))
    if prediction_type == "denoised":
        return weight
    # d x0 / d output, squared, turns an error of the output into one of x0.
    return weight * ops.square(scales.noise / _determinant(prediction_type, scales))


def _determinant(prediction_type, scales):
    """Of the lines of `denoised`: 1 for velocity and, on the cosine path, for v; alpha for noise,
    which is kept from zero."""
    image, noise = _line(prediction_type, scales)
    return ops.maximum(scales.signal * noise - scales.noise * image, 1e-3)


def _line(prediction_type, scales):
    """Coefficients (p, q) of x0 and z in the prediction."""
    one = scales.signal * 0 + 1
    return {
        "denoised": (one, one * 0),
        "noise": (one * 0, one),
        "v": (-scales.noise, scales.signal),
        "velocity": (scales.signal_slope, scales.noise_slope),
    }[prediction_type]
