"""The baseline's U-Net: the Keras DDIM example's, with self- and cross-attention.

The same function as the baseline's, computed at less cost. Its prompt is an image of equal pixels;
pooling, resizing and normalising leave it so, and a softmax over equal pixels is uniform. So its
prompt lives here at one pixel; its cross-attention is what that comes to, the prompt's value added
everywhere (its query and key projections have no effect there and never see a gradient); and the
first block convolves the prompt's 544 channels once instead of once a pixel. Attention is unscaled,
and normalisation is over the batch, as there: the one network of this package whose result depends
on how a batch is spread over replicas.
"""

import numpy as np
from keras import layers, ops

from t2i_tpu.models.blocks import convolution, sinusoids
from t2i_tpu.models.container import Container


class BatchNorm(layers.Layer):
    """Batch normalisation (Ioffe and Szegedy, 2015) over all axes but the last, momentum 0.99.

    While training, the batch's statistics are left in `batch_statistics` for the step to average
    over replicas and fold into the moving ones, instead of being assigned behind its back.
    """

    momentum, epsilon = 0.99, 1e-3

    def __init__(self, channels: int, affine: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.affine, self.batch_statistics = channels, affine, None

    def build(self, *_):
        def add(name, initializer, trainable):
            return self.add_weight(
                shape=(self.channels,), initializer=initializer, trainable=trainable, name=name
            )

        self.gain = add("gain", "ones", True) if self.affine else None
        self.bias = add("bias", "zeros", True) if self.affine else None
        self.moving_mean = add("moving_mean", "zeros", False)
        self.moving_variance = add("moving_variance", "ones", False)
        self.built = True

    def call(self, x, training=False):
        if training:
            mean, variance = ops.moments(
                ops.cast(x, "float32"), axes=tuple(range(len(x.shape) - 1))
            )
            self.batch_statistics = (mean, variance)
        else:
            mean = ops.cast(self.moving_mean, "float32")
            variance = ops.cast(self.moving_variance, "float32")
        gain = ops.rsqrt(variance + self.epsilon)
        if self.affine:
            gain = gain * ops.cast(self.gain, "float32")
        bias = -mean * gain
        if self.affine:
            bias = bias + ops.cast(self.bias, "float32")
        return x * ops.cast(gain, x.dtype) + ops.cast(bias, x.dtype)


class BaselineUNet(Container):
    """noisy image, noise level, condition -> the raw prediction, shaped as the image."""

    def __init__(
        self,
        channels: int,  # of the image
        widths: tuple[int, ...],  # channels of each resolution, finest first
        block_depth: int,  # residual blocks per resolution
        attention_levels: tuple[bool, ...],  # which resolutions attend
        embedding_dim: int,  # of the condition's vector
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the noise level stays float32
        self.stem = convolution(widths[0], kernel_size=1, name="stem")
        prompt_dim = embedding_dim + 32
        self.prompt_norm = BatchNorm(prompt_dim, name="prompt_norm")
        width, skips = widths[0], []

        def block(level, name):
            nonlocal width
            first = name == "down0_0"
            made = _Block(
                width, widths[level], attention_levels[level], prompt_dim, first, name=name
            )
            width = widths[level]
            return made

        last = len(widths) - 1
        down, up = [], []
        for level in range(last):
            down.append([block(level, f"down{level}_{index}") for index in range(block_depth)])
            skips += [width] * block_depth
        middle = [block(last, f"middle{index}") for index in range(block_depth)]
        for level in reversed(range(last)):
            up.append([])
            for index in range(block_depth):
                width += skips.pop()
                up[-1].append(block(level, f"up{level}_{index}"))
        self.down, self.middle, self.up = down, middle, up  # Keras tracks what a list holds by now
        self.head = convolution(channels, kernel_size=1, kernel_initializer="zeros", name="head")

    def call(self, x, noise_level, vector, sequence=None, attend_to=None, training=False):
        """x [B, H, W, C], noise_level float32 [B], the fields of a `Condition`, of which this one
        reads the vector -> [B, H, W, C]."""
        waves = ops.cast(sinusoids(noise_level, 16), x.dtype)
        vector = ops.cast(vector, x.dtype)
        raw_prompt = ops.concatenate([vector, waves], axis=-1)
        prompt = self.prompt_norm(raw_prompt, training=training)
        x, skips = self.stem(x), []
        for blocks in self.down:
            for block in blocks:
                x = block(x, prompt, raw_prompt, training=training)
                skips.append(x)
            x = ops.average_pool(x, 2, strides=2)
        for block in self.middle:
            x = block(x, prompt, training=training)
        for blocks in self.up:
            x = upsample_bilinear(x)
            for block in blocks:
                x = block(ops.concatenate([x, skips.pop()], axis=-1), prompt, training=training)
        return self.head(x)


class _Block(Container):
    """The DDIM example's residual block, then self- and cross-attention where there are any. The
    first of all reads the raw prompt as further channels of its image."""

    def __init__(self, input_width, width, attends, prompt_dim, first, **kwargs):
        super().__init__(**kwargs)
        self.prompted = first
        self.shortcut = None
        if first:
            self.shortcut = _PromptedConvolution(input_width, prompt_dim, width, 1, name="shortcut")
            self.prompt_norm = BatchNorm(prompt_dim, affine=False, name="prompt_norm")
            self.conv1 = _PromptedConvolution(input_width, prompt_dim, width, 3, name="conv1")
        else:
            if input_width != width:
                self.shortcut = convolution(width, kernel_size=1, name="shortcut")
            self.conv1 = convolution(width, name="conv1")
        self.norm = BatchNorm(input_width, affine=False, name="norm")
        self.conv2 = convolution(width, name="conv2")
        self.self_attention = _SelfAttention(width, name="self_attention") if attends else None
        self.cross_attention = (
            _PromptAttention(width, prompt_dim, name="cross_attention") if attends else None
        )

    def call(self, x, prompt, raw_prompt=None, training=False):
        normed = self.norm(x, training=training)
        if self.prompted:
            residual = self.shortcut(x, raw_prompt)
            x = self.conv1(normed, self.prompt_norm(raw_prompt, training=training))
        else:
            residual = self.shortcut(x) if self.shortcut else x
            x = self.conv1(normed)
        x = self.conv2(ops.silu(x)) + residual
        if self.self_attention:
            x = x + self.self_attention(x, training=training)
            x = x + self.cross_attention(prompt, training=training)
        return x


class _PromptedConvolution(layers.Layer):
    """A "same" convolution of an image whose last channels, the prompt's, are equal at all pixels.

    There a pixel's result differs only by which taps of the kernel fall inside the image.
    """

    def __init__(self, image_width, prompt_dim, width, kernel_size, **kwargs):
        super().__init__(**kwargs)
        self.image_width, self.kernel_size, self.width = image_width, kernel_size, width
        self.input_width = image_width + prompt_dim

    def build(self, *_):
        shape = (self.kernel_size, self.kernel_size, self.input_width, self.width)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x, prompt):
        """x [B, H, W, image_width], prompt [B, prompt_dim] -> [B, H, W, width]."""
        _, height, width, _ = x.shape
        taps = self.kernel_size**2
        kernel = ops.reshape(self.kernel[:, :, self.image_width :], (taps, -1, self.width))
        kernel = ops.reshape(ops.transpose(kernel, (1, 0, 2)), (-1, taps * self.width))
        by_tap = ops.reshape(ops.matmul(prompt, kernel), (-1, taps, self.width))
        inside = np.kron(
            _taps_inside(height, self.kernel_size), _taps_inside(width, self.kernel_size)
        )
        everywhere = ops.matmul(ops.convert_to_tensor(inside, dtype=x.dtype), by_tap)
        everywhere = ops.reshape(everywhere + self.bias, (-1, height, width, self.width))
        return ops.conv(x, self.kernel[:, :, : self.image_width], padding="same") + everywhere


def _taps_inside(size, kernel_size):
    """[size, kernel_size]: 1 where a tap of the kernel at a position falls inside the image."""
    source = np.arange(size)[:, None] + np.arange(kernel_size) - kernel_size // 2
    return ((source >= 0) & (source < size)).astype("float32")


class _SelfAttention(Container):
    """One head, an eighth of the width for queries and keys, unscaled. Rows are keys there."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNorm(width, name="norm")
        self.query = layers.Dense(width // 8, name="query")
        self.key = layers.Dense(width // 8, name="key")
        self.value = layers.Dense(width, name="value")
        self.out = layers.Dense(width, name="out")
        self.out_norm = BatchNorm(width, name="out_norm")

    def call(self, x, training=False):
        _, height, width, channels = x.shape
        flat = ops.reshape(self.norm(x, training=training), (-1, height * width, channels))
        logits = ops.matmul(self.key(flat), ops.transpose(self.query(flat), (0, 2, 1)))
        weights = ops.cast(ops.softmax(ops.cast(logits, "float32")), x.dtype)
        mixed = self.out(ops.matmul(weights, self.value(flat)))
        return self.out_norm(ops.reshape(mixed, (-1, height, width, channels)), training=training)


class _PromptAttention(Container):
    """The baseline's cross-attention: see the head of this file."""

    def __init__(self, width, prompt_dim, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNorm(prompt_dim, name="norm")
        self.value = layers.Dense(width, name="value")
        self.out = layers.Dense(width, name="out")
        self.out_norm = BatchNorm(width, name="out_norm")

    def call(self, prompt, training=False):
        x = self.out(self.value(self.norm(prompt, training=training)))
        return self.out_norm(x, training=training)[:, None, None, :]


def upsample_bilinear(x):
    """Doubles height and width as Keras' bilinear UpSampling2D does, by shifts and averages.

    A new pixel lies a quarter of a pixel from an old one: 3/4 of it and 1/4 of its neighbour, the
    edge repeated. Its gradient is a sum of slices, which XLA has (tensorflow #57575).
    """
    for axis in (1, 2):
        size = x.shape[axis]
        before = ops.concatenate([_slice(x, axis, 0, 1), _slice(x, axis, 0, size - 1)], axis=axis)
        after = ops.concatenate(
            [_slice(x, axis, 1, size), _slice(x, axis, size - 1, size)], axis=axis
        )
        pair = ops.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        shape = [-1, *x.shape[1:]]
        shape[axis] = 2 * size
        x = ops.reshape(pair, shape)
    return x


def _slice(x, axis, start, stop):
    return x[(slice(None),) * axis + (slice(start, stop),)]
