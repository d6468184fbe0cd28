"""Everything a run changes: weights, Adam's moments, averages, loss scale and the step."""

import keras
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.schema import Manifest
from t2i_tpu.models.denoiser import ConditionShape, Denoiser

INITIAL_LOSS_SCALE = 2.0**15


class TrainState:
    """The variables of a run, made under a strategy; `trackables` names them for a checkpoint."""

    def __init__(
        self, config: Config, manifest: Manifest, policy: str, strategy: tf.distribute.Strategy
    ):
        set_policy(policy)
        with strategy.scope():
            keras.utils.set_random_seed(config.seed)
            self.denoiser = make_denoiser(config, manifest)
            self.weights = [weight.value for weight in self.denoiser.trainable_variables]
            self.first_moments = [_zeros_like(weight) for weight in self.weights]
            self.second_moments = [_zeros_like(weight) for weight in self.weights]
            self.averages = [make_denoiser(config, manifest) for _ in config.train.ema_stds]
            self.step = _scalar(0, tf.int64)
            self.updates = _scalar(0, tf.int64)  # steps whose gradients were finite
            self.skipped_in_a_row = _scalar(0, tf.int64)  # the latest steps whose were not
            self.scales_loss = policy == "mixed_float16"
            self.loss_scale = _scalar(INITIAL_LOSS_SCALE if self.scales_loss else 1.0, tf.float32)
            self.updates_since_scaling = _scalar(0, tf.int64)
            # Not of a checkpoint: going back to one lowers it (train/nonfinite.py).
            self.learning_rate_scale = _scalar(1.0, tf.float32)
        for average in self.averages:
            for copy, weight in zip(average.variables, self.denoiser.variables, strict=True):
                copy.value.assign(weight.value)

    @property
    def sampled(self) -> Denoiser:
        """The model to draw images with: the first average, or the weights where there is none."""
        return self.averages[0] if self.averages else self.denoiser

    def moving_statistics(self, denoiser: Denoiser | None = None) -> list[tf.Variable]:
        """Mean and variance of each batch norm, in the order of `batch_statistics`."""
        norms = (denoiser or self.denoiser).batch_norms()
        return [
            moving.value for norm in norms for moving in (norm.moving_mean, norm.moving_variance)
        ]

    def batch_statistics(self) -> list[tf.Tensor]:
        """What the batch norms saw in the latest forward pass of training."""
        return [value for norm in self.denoiser.batch_norms() for value in norm.batch_statistics]

    def trackables(self) -> dict[str, object]:
        """What a checkpoint holds, by stable names."""
        moments = zip(
            self.denoiser.trainable_variables, self.first_moments, self.second_moments, strict=True
        )
        first, second = {}, {}
        for weight, m, v in moments:
            first[weight.path], second[weight.path] = m, v
        return {
            "step": self.step,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "loss_scale": self.loss_scale,
            "updates_since_scaling": self.updates_since_scaling,
            "first_moments": first,
            "second_moments": second,
            "weights": variables_by_path(self.denoiser),
            **{
                f"average{index}": variables_by_path(average)
                for index, average in enumerate(self.averages)
            },
        }


def variables_by_path(denoiser: Denoiser) -> dict[str, tf.Variable]:
    """A model's variables by name, as a checkpoint holds them."""
    return {variable.path: variable.value for variable in denoiser.variables}


def set_policy(policy: str) -> None:
    """The dtype policy of every layer made from here on."""
    keras.mixed_precision.set_global_policy(policy)


def make_denoiser(config: Config, manifest: Manifest) -> Denoiser:
    """The model of a config for a data set, its variables made."""
    return Denoiser(config, manifest.channels, condition_shape(config, manifest)).build_variables()


def condition_shape(config: Config, manifest: Manifest) -> ConditionShape:
    kind = config.model.conditioning
    if kind == "embedding":
        return ConditionShape(kind, (manifest.embedding.dim,))
    if kind == "label":
        return ConditionShape(kind, (), len(manifest.label_names))
    if kind == "sequence":
        length, width = manifest.sequence.context_length, manifest.sequence.width
        return ConditionShape(kind, (manifest.embedding.dim + length * width,), length, width)
    return ConditionShape(kind, (manifest.tokens.context_length,), manifest.tokens.vocab_size)


def _zeros_like(weight):
    return tf.Variable(tf.zeros(weight.shape), trainable=False)


def _scalar(value, dtype):
    return tf.Variable(value, dtype=dtype, trainable=False)
