"""The modern U-Net: residual blocks modulated by the condition, and attention at coarse levels."""

from keras import ops

from t2i_tpu.models.attention import Attention
from t2i_tpu.models.blocks import (
    Downsample,
    GroupNorm,
    NoiseLevelEmbedding,
    ResidualBlock,
    Upsample,
    depth_to_space,
    space_to_depth,
)
from t2i_tpu.models.container import Container
from t2i_tpu.models.initializers import convolution, dense


class UNet(Container):
    """Maps a noisy image, a noise level and an encoded condition to the raw prediction."""

    def __init__(
        self,
        image_size: int,
        channels: int,  # channels of the image
        widths: tuple[int, ...],  # channels at each resolution, finest first
        block_depth: int,  # residual blocks per resolution, down and up
        attention_levels: tuple[bool, ...],  # which resolutions have attention
        patch_size: int,  # side of the pixel blocks that the stem turns into channels
        embedding_dim: int,  # width of the vectors of the noise level and of the condition
        cross_attention: bool,  # whether to attend to the condition's sequence too
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the noise level stays float32
        self.patch_size = patch_size
        self.noise_level_embedding = NoiseLevelEmbedding(
            embedding_dim, name="noise_level_embedding"
        )
        self.stem = convolution(widths[0], name="stem")

        def block(input_width, level, name):
            attends = attention_levels[level]
            return _Block(input_width, widths[level], attends, cross_attention, name=name)

        # Down.
        down, downsample, up, upsample = [], [], [], []
        width, skips = widths[0], []
        for level in range(len(widths)):
            if level:
                width = widths[level]
                downsample.append(Downsample(width, name=f"downsample{level}"))
            down.append([])
            for index in range(block_depth):
                down[-1].append(block(width, level, f"down{level}_{index}"))
                skips.append(width)
        # Middle.
        coarsest = image_size // (patch_size * 2 ** (len(widths) - 1))
        self.layout = Layout(coarsest, width, name="layout")
        self.middle = block(width, len(widths) - 1, "middle")
        # Up, where every block reads a skip connection as well.
        for level in reversed(range(len(widths))):
            up.append([])
            for index in range(block_depth):
                up[-1].append(block(width + skips.pop(), level, f"up{level}_{index}"))
                width = widths[level]
            if level:
                width = widths[level - 1]
                upsample.append(Upsample(width, name=f"upsample{level}"))
        # Keras tracks only the layers that a list holds at the time of its assignment.
        self.down, self.downsample, self.up, self.upsample = down, downsample, up, upsample
        self.norm = GroupNorm(widths[0], name="norm")
        self.head = convolution(patch_size**2 * channels, kernel_initializer="zeros", name="head")

    def call(self, x, noise_level, vector, sequence=None, attend_to=None, training=False):
        """Return the raw prediction, [B, H, W, C], and {}, because there are no batch statistics.

        Args:
          x: [B, H, W, C].
          noise_level: float32 [B].
          vector, sequence, attend_to: the result of a `Conditioner`.
          training: ignored; only `BaselineUNet` needs it.
        """
        vector = ops.silu(self.noise_level_embedding(noise_level) + vector)
        x = self.stem(space_to_depth(x, self.patch_size))
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                x = self.downsample[level - 1](x)
            for block in blocks:
                x = block(x, vector, sequence, attend_to)
                skips.append(x)
        x = self.middle(x + self.layout(vector), vector, sequence, attend_to)
        for level, blocks in enumerate(self.up):
            for block in blocks:
                x = ops.concatenate([x, skips.pop()], axis=-1)
                x = block(x, vector, sequence, attend_to)
            if level < len(self.upsample):
                x = self.upsample[level](x)
        return depth_to_space(self.head(ops.silu(self.norm(x))), self.patch_size), {}


class Layout(Container):
    """Projects the condition to a map on the coarsest grid, through a low-rank bottleneck.

    At pure noise, only the prompt can determine the layout of the image. Modulation treats all
    positions alike, and convolutions can infer a position only from the zero padding at the border,
    so the layout needs a path of its own.
    """

    def __init__(self, size: int, width: int, rank: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.shape = (-1, size, size, width)
        self.numbers = dense(rank, name="numbers")
        self.grid = dense(size * size * width, kernel_initializer="zeros", name="grid")

    def call(self, vector):
        """Return [B, size, size, width] from the vector [B, D]."""
        return ops.reshape(self.grid(self.numbers(vector)), self.shape)


class _Block(Container):
    """A residual block, followed by self- and cross-attention if `attends` is true."""

    def __init__(self, input_width, width, attends, cross_attention, **kwargs):
        super().__init__(**kwargs)
        self.residual = ResidualBlock(input_width, width, name="residual")
        count = (2 if cross_attention else 1) if attends else 0
        self.norms = [GroupNorm(width, name=f"norm{index}") for index in range(count)]
        self.attentions = [Attention(width, name=f"attention{index}") for index in range(count)]

    def call(self, x, vector, sequence, attend_to):
        x = self.residual(x, vector)
        _, height, width, channels = x.shape
        # Self-attention has no context; cross-attention, if there is any, comes second.
        contexts = [(None, None), (sequence, attend_to)][: len(self.attentions)]
        for norm, attention, (context, mask) in zip(
            self.norms, self.attentions, contexts, strict=True
        ):
            flat = ops.reshape(norm(x), (-1, height * width, channels))
            mixed = attention(flat, context, attend_to=mask)
            x = x + ops.reshape(mixed, (-1, height, width, channels))
        return x
