"""The Denoiser: network, conditioning, path and prediction type behind one call."""

from keras import layers, ops

from t2i_tpu.config import Config
from t2i_tpu.diffusion import prediction
from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.models.baseline_unet import BaselineUNet, BatchNorm
from t2i_tpu.models.conditioning import (
    EmbeddingConditioner,
    EmbeddingProjection,
    LabelConditioner,
    SequenceConditioner,
    TokenConditioner,
)
from t2i_tpu.models.container import Container
from t2i_tpu.models.unet import UNet


class Denoiser(Container):
    """Estimates the clean image from a noisy one, a noise level and a raw condition.

    Raw conditions are as in `models.conditioning`; zeros are the null condition.
    """

    def __init__(self, config: Config, channels: int, condition_shape: "ConditionShape", **kwargs):
        super().__init__(name="denoiser", autocast=False, **kwargs)  # the noise level stays float32
        self.diffusion_path = PATHS[config.diffusion.path]
        self.prediction_type = config.diffusion.prediction_type
        self.image_shape = (config.data.image_size, config.data.image_size, channels)
        self.condition_shape = condition_shape
        self.conditioner = _make_conditioner(config, condition_shape)
        self.network = _make_network(config, channels, condition_shape)

    def call(self, x, noise_level, condition, training=False):
        """The raw prediction, float32.

        Args:
          x: float32 [B, H, W, C], noisy images; data lies in [-1, 1].
          noise_level: float32 [B] in [0, 1].
          condition: the raw condition of each image.
        """
        x = ops.cast(x, self.compute_dtype)
        # One by one, because Keras 3.12, the last for Python 3.10, takes no None inside of a tuple.
        prompt = self.conditioner(condition)
        return ops.cast(self.network(x, noise_level, *prompt, training=training), "float32")

    def denoise(self, x, noise_level, condition):
        """The denoised image, float32 [B, H, W, C]; arguments as for `call`."""
        output = self(x, noise_level, condition)
        level = noise_level[:, None, None, None]
        return prediction.denoised(self.prediction_type, self.diffusion_path, output, x, level)

    def build_variables(self) -> "Denoiser":
        """Creates every variable, with one call on a batch of zeros."""
        condition = ops.zeros(self.condition_shape.batch(1), self.condition_shape.dtype)
        self(ops.zeros((1, *self.image_shape)), ops.zeros((1,)), condition)
        return self

    def batch_norms(self) -> list[BatchNorm]:
        """The layers whose batch statistics a step folds into moving ones."""
        return [layer for layer in self._flatten_layers() if isinstance(layer, BatchNorm)]


class ConditionShape:
    """What a data set's raw condition looks like: a name, a shape without batch, a dtype and, for
    classes and tokens, how many there are; for a sequence, how many states of which width."""

    def __init__(self, kind: str, shape: tuple[int, ...], count: int = 0, width: int = 0):
        self.kind, self.shape, self.count, self.width = kind, shape, count, width
        self.dtype = "float32" if kind in ("embedding", "sequence") else "int32"

    def batch(self, size: int) -> tuple[int, ...]:
        return (size, *self.shape)


def _make_conditioner(config, condition_shape) -> layers.Layer:
    baseline = config.model.blocks == "baseline"
    dim = config.model.embedding_dim
    if condition_shape.kind == "embedding":
        # The baseline halves a precomputed embedding and does not normalise it.
        if baseline:
            return EmbeddingProjection(condition_shape.shape[0] // 2, name="conditioner")
        return EmbeddingConditioner(dim, name="conditioner")
    if condition_shape.kind == "label":
        return LabelConditioner(condition_shape.count, dim, name="conditioner")
    if condition_shape.kind == "sequence":
        return SequenceConditioner(
            condition_shape.count, condition_shape.width, dim, name="conditioner"
        )
    return TokenConditioner(
        condition_shape.count, condition_shape.shape[0], dim, name="conditioner"
    )


def _make_network(config, channels, condition_shape) -> layers.Layer:
    model = config.model
    if model.blocks == "baseline":
        halved = condition_shape.kind == "embedding"
        dim = condition_shape.shape[0] // 2 if halved else model.embedding_dim
        return BaselineUNet(
            channels, model.widths, model.block_depth, model.attention_levels, dim, name="unet"
        )
    return UNet(
        config.data.image_size,
        channels,
        model.widths,
        model.block_depth,
        model.attention_levels,
        model.patch_size,
        model.embedding_dim,
        cross_attention=condition_shape.kind in ("tokens", "sequence"),
        name="unet",
    )
