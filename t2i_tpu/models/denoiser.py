"""The Denoiser, which combines the network, the conditioner, the path and the prediction type."""

import keras
import numpy as np
from keras import layers, ops, tree

from t2i_tpu.config import Config
from t2i_tpu.diffusion import prediction
from t2i_tpu.diffusion.path import PATHS
from t2i_tpu.errors import UserError
from t2i_tpu.models.baseline_unet import BaselineUNet
from t2i_tpu.models.conditioning import (
    BASELINE_CONDITIONERS,
    CONDITIONERS,
    Conditioner,
    ConditionSpec,
)
from t2i_tpu.models.container import Container
from t2i_tpu.models.unet import UNet


class Denoiser(Container):
    """Estimates the clean image from a noisy one, a noise level and a condition.

    Conditions are dicts, which models/conditioning.py describes; zeros are the null condition.
    """

    def __init__(self, config: Config, channels: int, spec: ConditionSpec, **kwargs):
        super().__init__(name="denoiser", autocast=False, **kwargs)  # the noise level stays float32
        self.diffusion_path = PATHS[config.diffusion.path]
        self.prediction_type = config.diffusion.prediction_type
        self.image_shape = (config.data.image_size, config.data.image_size, channels)
        self.condition_spec = spec
        self.conditioner = find_conditioner(config).from_spec(
            spec, config.model.embedding_dim, name="conditioner"
        )
        self.network = _make_network(config, channels, self.conditioner)

    def call(self, x, noise_level, condition, training=False):
        """Return the network's raw prediction and its batch statistics.

        Args:
          x: float32 [B, H, W, C], noisy images. Clean images lie in [-1, 1].
          noise_level: float32 [B] in [0, 1].
          condition: the condition of each image.
          training: whether batch norms use the statistics of this batch.

        Returns:
          The raw prediction, float32 [B, H, W, C], and the batch statistics: a dict from the path
          of a moving statistic's variable to this batch's value. It is empty unless training.
        """
        encoded = self.conditioner(**condition)
        return self._run_network(x, noise_level, encoded, training)

    def encode(self, condition) -> dict:
        """Return the fields of the encoded condition.

        Floating-point fields become float32, which represents them exactly.
        """
        encoded = self.conditioner(**condition)
        return {
            name: ops.cast(value, "bool" if name == "attend_to" else "float32")
            for name, value in encoded.items()
        }

    def denoise(self, x, noise_level, condition):
        """Return the denoised images, float32 [B, H, W, C]; the arguments are those of `call`."""
        return self.denoise_encoded(x, noise_level, self.encode(condition))

    def denoise_encoded(self, x, noise_level, encoded: dict):
        """Return the denoised images for conditions that `encode` has encoded."""
        encoded = {
            name: value if name == "attend_to" else ops.cast(value, self.compute_dtype)
            for name, value in encoded.items()
        }
        output, _ = self._run_network(x, noise_level, encoded, training=False)
        level = noise_level[:, None, None, None]
        return prediction.to_denoised(self.prediction_type, self.diffusion_path, output, x, level)

    def _run_network(self, x, noise_level, encoded: dict, training: bool):
        x = ops.cast(x, self.compute_dtype)
        output, statistics = self.network(x, noise_level, **encoded, training=training)
        return ops.cast(output, "float32"), statistics

    def moving_statistics(self) -> list[keras.Variable]:
        """Return the moving means and variances of the batch norms."""
        names = ("moving_mean", "moving_variance")
        return [variable for variable in self.non_trainable_variables if variable.name in names]


def build_denoiser(
    config: Config, channels: int, spec: ConditionSpec, dtype_policy: str
) -> Denoiser:
    """Return the model of a resolved config with all its variables created.

    Its initial weights are a function of config.seed.

    Args:
      config: resolved.
      channels: number of channels of the images, 1 or 3.
      spec: describes the data set's conditions.
      dtype_policy: a Keras dtype policy. It becomes the global policy, which sublayers inherit.

    Raises:
      UserError: the config's blocks do not support its kind of condition.
    """
    keras.mixed_precision.set_global_policy(dtype_policy)
    keras.utils.set_random_seed(config.seed)
    denoiser = Denoiser(config, channels, spec)
    # One call creates every variable. Symbolic inputs keep the backend from computing anything.
    inputs = np.zeros((1, *denoiser.image_shape), "float32"), np.zeros(1, "float32"), spec.null(1)
    denoiser(*tree.map_structure(_make_symbol, inputs))
    return denoiser


def _make_symbol(array: np.ndarray) -> keras.KerasTensor:
    return keras.Input(batch_shape=array.shape, dtype=str(array.dtype))


def find_conditioner(config: Config) -> type[Conditioner]:
    """Return the class of a config's conditioner, or raise UserError if the blocks support none."""
    kind, blocks = config.model.conditioning, config.model.blocks
    table = BASELINE_CONDITIONERS if blocks == "baseline" else CONDITIONERS
    if kind not in table:
        raise UserError(
            f"config.model.conditioning is {kind!r}; with config.model.blocks={blocks} it must be "
            f"one of {', '.join(table)}"
        )
    return table[kind]


def _make_network(config: Config, channels: int, conditioner: Conditioner) -> layers.Layer:
    model = config.model
    if model.blocks == "baseline":
        return BaselineUNet(
            channels,
            model.widths,
            model.block_depth,
            model.attention_levels,
            conditioner.dim,
            name="unet",
        )
    return UNet(
        config.data.image_size,
        channels,
        model.widths,
        model.block_depth,
        model.attention_levels,
        model.patch_size,
        conditioner.dim,
        cross_attention=conditioner.has_sequence,
        name="unet",
    )
