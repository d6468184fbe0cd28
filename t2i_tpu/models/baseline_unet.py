"""The baseline's U-Net: the Keras DDIM example's, with self- and cross-attention.

It computes the same function as the network of apapiu/guided-diffusion-keras at a lower cost. The
prompt of that network is an image of equal pixels, which pooling, resizing and normalization keep equal,
and a softmax over equal pixels is uniform. Here, the prompt is therefore a single pixel. Cross-attention
adds its value at every position; the query and key projections are omitted, because they have no effect
and never receive a gradient. The first block convolves the prompt's channels once, not once per pixel.

As in the baseline, attention is not scaled, and normalization is over the batch. On TensorFlow, it is
over a replica's examples, so here alone, the result depends on the number of replicas.

Every layer returns its output and the batch statistics of its batch norms: a dict from the path of
a moving statistic's variable to the value in this batch. The dict is empty in inference.
"""

import numpy as np
from keras import KerasTensor, ops

from t2i_tpu.models.blocks import sinusoids
from t2i_tpu.models.container import Container
from t2i_tpu.models.initializers import GlorotUniform, convolution, dense


class BatchNorm(Container):
    """Batch normalization (Ioffe and Szegedy, 2015) over all axes but the last.

    In training, it returns the batch's statistics instead of updating the moving statistics,
    because the training step must average them over replicas first.
    """

    epsilon = 1e-3

    def __init__(self, channels: int, affine: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.affine = channels, affine

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
        """Return the normalized x and the batch statistics."""
        if training:
            axes = tuple(range(len(x.shape) - 1))
            mean, variance = ops.moments(ops.cast(x, "float32"), axes=axes)
            statistics = {self.moving_mean.path: mean, self.moving_variance.path: variance}
        else:
            mean = ops.cast(self.moving_mean, "float32")
            variance = ops.cast(self.moving_variance, "float32")
            statistics = {}
        gain = ops.rsqrt(variance + self.epsilon)
        if self.affine:
            gain = gain * ops.cast(self.gain, "float32")
        bias = -mean * gain
        if self.affine:
            bias = bias + ops.cast(self.bias, "float32")
        return x * ops.cast(gain, x.dtype) + ops.cast(bias, x.dtype), statistics

    def compute_output_spec(self, x, *_, **__):
        return KerasTensor(x.shape, x.dtype), {}


class BaselineUNet(Container):
    """Maps a noisy image, a noise level and an encoded condition to the raw prediction."""

    def __init__(
        self,
        channels: int,  # channels of the image
        widths: tuple[int, ...],  # channels at each resolution, finest first
        block_depth: int,  # residual blocks per resolution
        attention_levels: tuple[bool, ...],  # which resolutions have attention
        embedding_dim: int,  # width of the condition's vector
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the noise level stays float32
        self.stem = convolution(widths[0], kernel_size=1, name="stem")
        prompt_dim = embedding_dim + 32
        self.prompt_norm = BatchNorm(prompt_dim, name="prompt_norm")
        width, skips = widths[0], []

        def block(level, name):
            nonlocal width
            is_first, attends = name == "down0_0", attention_levels[level]
            made = _Block(width, widths[level], attends, prompt_dim, is_first, name=name)
            width = widths[level]
            return made

        # Down, and the middle.
        last = len(widths) - 1
        down, up = [], []
        for level in range(last):
            down.append([block(level, f"down{level}_{index}") for index in range(block_depth)])
            skips += [width] * block_depth
        middle = [block(last, f"middle{index}") for index in range(block_depth)]
        # Up, where every block reads a skip connection as well.
        for level in reversed(range(last)):
            up.append([])
            for index in range(block_depth):
                width += skips.pop()
                up[-1].append(block(level, f"up{level}_{index}"))
        # Keras tracks only the layers that a list holds at the time of its assignment.
        self.down, self.middle, self.up = down, middle, up
        self.head = convolution(channels, kernel_size=1, kernel_initializer="zeros", name="head")

    def call(self, x, noise_level, vector, sequence=None, attend_to=None, training=False):
        """Return the raw prediction, [B, H, W, C], and the batch statistics.

        Args:
          x: [B, H, W, C].
          noise_level: float32 [B].
          vector, sequence, attend_to: the result of a `Conditioner`. Only `vector` is used.
          training: whether batch norms use the statistics of this batch.
        """
        waves = ops.cast(sinusoids(noise_level, 16), x.dtype)
        vector = ops.cast(vector, x.dtype)
        raw_prompt = ops.concatenate([vector, waves], axis=-1)
        prompt, statistics = self.prompt_norm(raw_prompt, training=training)

        def apply(block, x, *inputs):
            x, more = block(x, prompt, *inputs, training=training)
            statistics.update(more)
            return x

        x, skips = self.stem(x), []
        for blocks in self.down:
            for block in blocks:
                x = apply(block, x, raw_prompt)
                skips.append(x)
            x = ops.average_pool(x, 2, strides=2)
        for block in self.middle:
            x = apply(block, x)
        for blocks in self.up:
            x = upsample_bilinear(x)
            for block in blocks:
                x = apply(block, ops.concatenate([x, skips.pop()], axis=-1))
        return self.head(x), statistics


class _Block(Container):
    """The DDIM example's residual block, with self- and cross-attention after it if `attends`.

    The first block of the network also reads the raw prompt, as additional channels of its image.
    """

    def __init__(self, input_width, width, attends, prompt_dim, is_first, **kwargs):
        super().__init__(**kwargs)
        self.reads_prompt = is_first
        self.shortcut = None
        if is_first:
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
        # The residual block.
        normed, statistics = self.norm(x, training=training)
        if self.reads_prompt:
            residual = self.shortcut(x, raw_prompt)
            normed_prompt, more = self.prompt_norm(raw_prompt, training=training)
            statistics = statistics | more
            x = self.conv1(normed, normed_prompt)
        else:
            residual = self.shortcut(x) if self.shortcut else x
            x = self.conv1(normed)
        x = self.conv2(ops.silu(x)) + residual
        # Attention.
        if self.self_attention:
            attended, more = self.self_attention(x, training=training)
            x, statistics = x + attended, statistics | more
            attended, more = self.cross_attention(prompt, training=training)
            x, statistics = x + attended, statistics | more
        return x, statistics


class _PromptedConvolution(Container):
    """A "same"-padded convolution of an image whose last channels repeat the prompt at every pixel.

    The contribution of the prompt's channels to a pixel depends only on which taps of the kernel
    fall inside the image.
    """

    def __init__(self, image_width, prompt_dim, width, kernel_size, **kwargs):
        super().__init__(**kwargs)
        self.image_width, self.kernel_size, self.width = image_width, kernel_size, width
        self.input_width = image_width + prompt_dim

    def build(self, *_):
        shape = (self.kernel_size, self.kernel_size, self.input_width, self.width)
        self.kernel = self.add_weight(shape=shape, initializer=GlorotUniform(), name="kernel")
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")
        self.built = True

    def call(self, x, prompt):
        """Return [B, H, W, width] from x [B, H, W, image_width] and prompt [B, prompt_dim]."""
        _, height, width, _ = x.shape
        # Compute the prompt's contribution at each tap of the kernel, [B, taps, width].
        taps = self.kernel_size**2
        kernel = ops.reshape(self.kernel[:, :, self.image_width :], (taps, -1, self.width))
        kernel = ops.reshape(ops.transpose(kernel, (1, 0, 2)), (-1, taps * self.width))
        by_tap = ops.reshape(ops.matmul(prompt, kernel), (-1, taps, self.width))
        # Sum the taps that fall inside the image, for each pixel.
        inside = np.kron(
            _taps_inside(height, self.kernel_size), _taps_inside(width, self.kernel_size)
        )
        everywhere = ops.matmul(ops.convert_to_tensor(inside, dtype=x.dtype), by_tap)
        everywhere = ops.reshape(everywhere + self.bias, (-1, height, width, self.width))
        return ops.conv(x, self.kernel[:, :, : self.image_width], padding="same") + everywhere


def _taps_inside(size, kernel_size):
    """Return float32 [size, kernel_size], 1 if a tap at a position falls inside the image, or 0."""
    source = np.arange(size)[:, None] + np.arange(kernel_size) - kernel_size // 2
    return ((source >= 0) & (source < size)).astype("float32")


class _SelfAttention(Container):
    """Unscaled self-attention with one head, whose queries and keys have an eighth of the width.

    As in the baseline, the rows of the attention matrix are the keys.
    """

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNorm(width, name="norm")
        self.query = dense(width // 8, name="query")
        self.key = dense(width // 8, name="key")
        self.value = dense(width, name="value")
        self.out = dense(width, name="out")
        self.out_norm = BatchNorm(width, name="out_norm")

    def call(self, x, training=False):
        _, height, width, channels = x.shape
        normed, statistics = self.norm(x, training=training)
        flat = ops.reshape(normed, (-1, height * width, channels))
        logits = ops.matmul(self.key(flat), ops.transpose(self.query(flat), (0, 2, 1)))
        weights = ops.cast(ops.softmax(ops.cast(logits, "float32")), x.dtype)
        mixed = self.out(ops.matmul(weights, self.value(flat)))
        mixed = ops.reshape(mixed, (-1, height, width, channels))
        normed, more = self.out_norm(mixed, training=training)
        return normed, statistics | more


class _PromptAttention(Container):
    """The baseline's cross-attention, simplified as the module's docstring explains."""

    def __init__(self, width, prompt_dim, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNorm(prompt_dim, name="norm")
        self.value = dense(width, name="value")
        self.out = dense(width, name="out")
        self.out_norm = BatchNorm(width, name="out_norm")

    def call(self, prompt, training=False):
        normed, statistics = self.norm(prompt, training=training)
        x, more = self.out_norm(self.out(self.value(normed)), training=training)
        return x[:, None, None, :], statistics | more


def upsample_bilinear(x):
    """Double height and width by shifts and averages, as Keras' bilinear UpSampling2D does.

    A new pixel lies a quarter of a pixel from an old one, so it is 3/4 of that pixel and 1/4 of its
    neighbor, with the edge repeated. The gradient is a sum of slices, which XLA supports;
    TensorFlow's own bilinear resize has no gradient under XLA (tensorflow #57575).
    """
    for axis in (1, 2):
        size = x.shape[axis]
        # `before` and `after` hold each pixel's neighbors along the axis.
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
    """Return x[start:stop] along an axis."""
    return x[(slice(None),) * axis + (slice(start, stop),)]
