"""The state of a run: weights, Adam's moments, averages of the weights, loss scale and counters."""

import keras
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.models.denoiser import Denoiser, build_denoiser, variables_by_path

INITIAL_LOSS_SCALE = 2.0**15


class TrainState:
    """The variables of a run, created under its strategy.

    Attributes:
      denoiser: the model that is trained.
      weights: its trainable variables.
      first_moments, second_moments: Adam's moments, in the order of the weights.
      averages: a model with averaged weights for each entry of config.train.ema_stds.
      step: int64, the number of steps done.
      updates: int64, the number of these steps whose gradients were finite.
      skipped_in_a_row: int64, the number of consecutive steps, up to the latest, whose gradients
        were not finite.
      scales_loss: whether the loss is scaled, which float16 requires.
      loss_scale: float32, the factor of the loss before it is differentiated.
      updates_since_scaling: int64, the number of updates since the loss scale changed.
      learning_rate_scale: float32, the factor of the learning rate, which every rollback lowers. It
        is not part of a checkpoint, because restoring one would undo this.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        dtype_policy: str,
        strategy: tf.distribute.Strategy,
    ):
        spec = get_conditioning(config.model.conditioning).make_spec(manifest)

        def build() -> Denoiser:
            return build_denoiser(config, manifest.channels, spec, dtype_policy)

        with strategy.scope():
            keras.utils.set_random_seed(config.seed)
            self.denoiser = build()
            self.weights = [weight.value for weight in self.denoiser.trainable_variables]
            self.first_moments = [_zeros_like(weight) for weight in self.weights]
            self.second_moments = [_zeros_like(weight) for weight in self.weights]
            self.averages = [build() for _ in config.train.ema_stds]
            self.step = _scalar(0, tf.int64)
            self.updates = _scalar(0, tf.int64)
            self.skipped_in_a_row = _scalar(0, tf.int64)
            self.scales_loss = dtype_policy == "mixed_float16"
            self.loss_scale = _scalar(INITIAL_LOSS_SCALE if self.scales_loss else 1.0, tf.float32)
            self.updates_since_scaling = _scalar(0, tf.int64)
            self.learning_rate_scale = _scalar(1.0, tf.float32)
        # Start the averages from the weights.
        for average in self.averages:
            for copy, weight in zip(average.variables, self.denoiser.variables, strict=True):
                copy.value.assign(weight.value)

    @property
    def sampling_model(self) -> Denoiser:
        """The model that draws images: the first average, or `denoiser` if there is none."""
        return self.averages[0] if self.averages else self.denoiser

    def trackables(self) -> dict[str, object]:
        """Return the content of a checkpoint: variables and dicts of variables by stable names."""
        paths = [weight.path for weight in self.denoiser.trainable_variables]
        return {
            "step": self.step,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "loss_scale": self.loss_scale,
            "updates_since_scaling": self.updates_since_scaling,
            "first_moments": dict(zip(paths, self.first_moments, strict=True)),
            "second_moments": dict(zip(paths, self.second_moments, strict=True)),
            "weights": variables_by_path(self.denoiser),
            **{
                f"average{index}": variables_by_path(average)
                for index, average in enumerate(self.averages)
            },
        }


def _zeros_like(weight):
    return tf.Variable(tf.zeros(weight.shape), trainable=False)


def _scalar(value, dtype):
    return tf.Variable(value, dtype=dtype, trainable=False)
