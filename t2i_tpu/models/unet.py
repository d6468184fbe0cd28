"""The modern U-Net: residual blocks modulated by the condition, attention at coarse levels."""

from keras import layers, ops

from t2i_tpu.models.attention import Attention
from t2i_tpu.models.blocks import (
    Downsample,
    GroupNorm,
    NoiseLevelEmbedding,
    ResidualBlock,
    Upsample,
    convolution,
    depth_to_space,
    space_to_depth,
)
from t2i_tpu.models.container import Container


class UNet(Container):
    """noisy image, noise level, condition -> the raw prediction, shaped as the image."""

    def __init__(
        self,
        image_size: int,
        channels: int,  # of the image
        widths: tuple[int, ...],  # channels of each resolution, finest first
        block_depth: int,  # residual blocks per resolution, down and up
        attention_levels: tuple[bool, ...],  # which resolutions attend
        patch_size: int,  # pixels to channels at the stem
        embedding_dim: int,  # of the noise level's and the condition's vector
        cross_attention: bool,  # attend to the condition's sequence too
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
        coarsest = image_size // (patch_size * 2 ** (len(widths) - 1))
        self.layout = Layout(coarsest, width, name="layout")
        self.middle = block(width, len(widths) - 1, "middle")
        for level in reversed(range(len(widths))):
            up.append([])
            for index in range(block_depth):
                up[-1].append(block(width + skips.pop(), level, f"up{level}_{index}"))
                width = widths[level]
            if level:
                width = widths[level - 1]
                upsample.append(Upsample(width, name=f"upsample{level}"))
        # Keras tracks what a list holds when it is assigned.
        self.down, self.downsample, self.up, self.upsample = down, downsample, up, upsample
        self.norm = GroupNorm(widths[0], name="norm")
        self.head = convolution(patch_size**2 * channels, kernel_initializer="zeros", name="head")

    def call(self, x, noise_level, vector, sequence=None, attend_to=None, training=False):
        """x [B, H, W, C], noise_level float32 [B], the fields of a `Condition` -> [B, H, W, C];
        training makes no difference here, as it does in the baseline's."""
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
        return depth_to_space(self.head(ops.silu(self.norm(x))), self.patch_size)


class Layout(Container):
    """The condition drawn onto the coarsest grid, by way of a few numbers.

    Convolutions know a position only by the zeros beyond the border, and modulation treats all
    positions alike. At pure noise the layout has to come from the prompt; this is its way in.
    """

    def __init__(self, size: int, width: int, rank: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.shape = (-1, size, size, width)
        self.numbers = layers.Dense(rank, name="numbers")
        self.grid = layers.Dense(size * size * width, kernel_initializer="zeros", name="grid")

    def call(self, vector):
        """[B, D] -> [B, size, size, width]."""
        return ops.reshape(self.grid(self.numbers(vector)), self.shape)


class _Block(Container):
    """A residual block, and self- and cross-attention where the level has them."""

    def __init__(self, input_width, width, attends, cross_attention, **kwargs):
        super().__init__(**kwargs)
        self.residual = ResidualBlock(input_width, width, name="residual")
        self.norms = [
            GroupNorm(width, name=f"norm{index}")
            for index in range(attends * (1 + cross_attention))
        ]
        self.attentions = [
            Attention(width, name=f"attention{index}") for index in range(len(self.norms))
        ]

    def call(self, x, vector, sequence, attend_to):
        x = self.residual(x, vector)
        _, height, width, channels = x.shape
        contexts = [(None, None), (sequence, attend_to)]
        for norm, attention, (context, mask) in zip(
            self.norms, self.attentions, contexts, strict=False
        ):
            flat = ops.reshape(norm(x), (-1, height * width, channels))
            x = x + ops.reshape(
                attention(flat, context, attend_to=mask), (-1, height, width, channels)
            )
        return x
