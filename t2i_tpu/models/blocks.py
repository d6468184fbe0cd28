"""The building blocks of the modern U-Net. Images are [batch, height, width, channels]."""

import math

import numpy as np
from keras import KerasTensor, ops

from t2i_tpu.models.container import Container
from t2i_tpu.models.initializers import convolution, dense


class GroupNorm(Container):
    """Group normalization (Wu and He, 2018), optionally scaled and shifted by the condition.

    Normalization, its own gain and bias, and the condition's scale and shift are folded into one
    multiply-add over the image. The statistics are float32 and are taken per channel first. This
    needs less than half of the textbook form's memory traffic, which dominates the time on CPUs.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = next(
            groups for groups in (32, 16, 8, 4, 2, 1) if channels % (groups * 4) == 0 or groups == 1
        )
        self.channels = channels

    def build(self, *_):
        self.gain = self.add_weight(shape=(self.channels,), initializer="ones", name="gain")
        self.bias = self.add_weight(shape=(self.channels,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x, scale=None, shift=None):
        """Normalize x, [B, H, W, C]. `scale` and `shift` are both [B, C] or both None."""
        wide = ops.cast(x, "float32")
        mean = self._over_group(ops.mean(wide, axis=(1, 2)))
        variance = self._over_group(ops.mean(ops.square(wide), axis=(1, 2))) - ops.square(mean)
        gain = ops.rsqrt(ops.maximum(variance, 0.0) + 1e-5) * ops.cast(self.gain, "float32")
        bias = ops.cast(self.bias, "float32") - mean * gain
        if scale is not None:
            scale = 1.0 + ops.cast(scale, "float32")
            gain, bias = gain * scale, bias * scale + ops.cast(shift, "float32")
        return x * _per_image(gain, x.dtype) + _per_image(bias, x.dtype)

    def compute_output_spec(self, x, *_, **__):
        return KerasTensor(x.shape, x.dtype)

    def _over_group(self, statistic):
        """Replace a statistic [B, C] by its mean over each group, repeated to [B, C]."""
        grouped = ops.reshape(statistic, (-1, self.groups, self.channels // self.groups))
        # `ops.broadcast_to` would need the batch size, which adds nodes to the graph.
        ones = np.ones(self.channels // self.groups, "float32")
        repeated = ops.mean(grouped, axis=-1, keepdims=True) * ones
        return ops.reshape(repeated, (-1, self.channels))


class ResidualBlock(Container):
    """Two convolutions behind norms and swish, the second norm conditioned, and a shortcut.

    The last convolution starts at zero.
    """

    def __init__(self, input_width: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = GroupNorm(input_width, name="norm1")
        self.conv1 = convolution(width, name="conv1")
        self.modulation = dense(2 * width, kernel_initializer="zeros", name="modulation")
        self.norm2 = GroupNorm(width, name="norm2")
        self.conv2 = convolution(width, kernel_initializer="zeros", name="conv2")
        self.shortcut = (
            convolution(width, kernel_size=1, name="shortcut") if input_width != width else None
        )

    def call(self, x, condition):
        """Return [B, H, W, width] from x [B, H, W, input_width] and condition [B, D]."""
        scale, shift = ops.split(self.modulation(condition), 2, axis=-1)
        residual = self.conv1(ops.silu(self.norm1(x)))
        residual = ops.silu(self.norm2(residual, scale, shift))
        return self.conv2(residual) + (self.shortcut(x) if self.shortcut else x)


class Downsample(Container):
    """Halves the resolution by multiplying every 2x2 block with one matrix."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = convolution(width, kernel_size=2, strides=2, padding="valid", name="conv")

    def call(self, x):
        return self.conv(x)


class Upsample(Container):
    """Doubles the resolution. It is the transpose of `Downsample`: outputs do not overlap."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = convolution(4 * width, kernel_size=1, name="conv")

    def call(self, x):
        return depth_to_space(self.conv(x), 2)


def space_to_depth(x, size: int):
    """Reshape [B, H, W, C] to [B, H / size, W / size, size * size * C]."""
    if size == 1:
        return x
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // size, size, width // size, size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // size, width // size, size * size * channels))


def depth_to_space(x, size: int):
    """Invert `space_to_depth`."""
    if size == 1:
        return x
    _, height, width, depth = x.shape
    channels = depth // (size * size)
    x = ops.reshape(x, (-1, height, width, size, size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * size, width * size, channels))


def _per_image(coefficient, dtype):
    """Reshape [B, C] to [B, 1, 1, C] for multiplication with images of a dtype."""
    return ops.cast(ops.reshape(coefficient, (-1, 1, 1, coefficient.shape[-1])), dtype)


class NoiseLevelEmbedding(Container):
    """Embeds the noise level: sinusoids at 32 frequencies from 1 to 1000, then two dense layers."""

    def __init__(self, dim: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the noise level stays float32
        self.hidden = dense(dim, activation="silu", name="hidden")
        self.out = dense(dim, name="out")

    def call(self, noise_level):
        """Return [B, dim] from the noise level, float32 [B]."""
        return self.out(self.hidden(sinusoids(noise_level, 32)))


def sinusoids(noise_level, frequencies: int):
    """Return the sines, then the cosines, of 2 pi f n for frequencies f from 1 to 1000.

    The frequencies are evenly spaced on a logarithmic scale.

    Args:
      noise_level: n, float32 [B].
      frequencies: number of frequencies.

    Returns:
      float32 [B, 2 * frequencies]. bfloat16 is too coarse: near 2 pi 1000, its values are 32 apart.
    """
    # NumPy computes the factors, because an error in their last bit would change an angle by up to 5e-4,
    # and the exponential functions of the frameworks differ in this bit.
    factors = 2 * math.pi * np.exp(np.linspace(0.0, math.log(1000.0), frequencies))
    angles = ops.cast(noise_level, "float32")[:, None] * factors.astype("float32")
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
