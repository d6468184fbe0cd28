"""The state of a run: weights, Adam's moments, averages of the weights, loss scale and counters."""

from collections.abc import Iterator

import keras
import numpy as np

from t2i_tpu.config import Config
from t2i_tpu.models.denoiser import Denoiser

INITIAL_LOSS_SCALE = 2.0**15

# JAX has no int64, and TensorFlow keeps int32 variables of a GPU in the host's memory.
_COUNTER = "int64" if keras.backend.backend() == "tensorflow" else "int32"

Variables = dict[str, keras.Variable]  # by the path of the weight


class State:
    """The variables of a run. They must be created inside the scope of the engine that trains.

    Attributes:
      denoiser: the model that is trained.
      weights: all variables of the model, including those that are not trained.
      first_moments, second_moments: Adam's moments of the trained weights.
      averages: the averaged weights for each entry of config.train.ema_stds.
      step: the number of steps done.
      updates: the number of these steps whose gradients were finite.
      skipped_in_a_row: the number of consecutive steps, up to the latest, whose gradients were not
        finite.
      scales_loss: whether the loss is scaled, which float16 requires.
      loss_scale: float32, the factor of the loss before it is differentiated.
      updates_since_scaling: the number of updates since the loss scale changed.
      learning_rate_scale: float32, the factor of the learning rate, which every rollback lowers. It
        is not part of a checkpoint, because restoring one would undo this.
    """

    def __init__(self, config: Config, denoiser: Denoiser):
        self.denoiser = denoiser
        self.weights: Variables = {weight.path: weight for weight in denoiser.variables}
        trained = {weight.path: weight for weight in denoiser.trainable_variables}
        self.first_moments = {path: _zeros_like(weight) for path, weight in trained.items()}
        self.second_moments = {path: _zeros_like(weight) for path, weight in trained.items()}
        self.averages: list[Variables] = [
            {path: _copy(weight) for path, weight in self.weights.items()}
            for _ in config.train.ema_stds
        ]
        self.step = _make_scalar(0, _COUNTER)
        self.updates = _make_scalar(0, _COUNTER)
        self.skipped_in_a_row = _make_scalar(0, _COUNTER)
        self.scales_loss = denoiser.dtype_policy.name == "mixed_float16"
        self.loss_scale = _make_scalar(INITIAL_LOSS_SCALE if self.scales_loss else 1.0, "float32")
        self.updates_since_scaling = _make_scalar(0, _COUNTER)
        self.learning_rate_scale = _make_scalar(1.0, "float32")

    @property
    def sampling_weights(self) -> Variables:
        """The weights that draw images: the first average, or the trained weights if there is none."""
        return self.averages[0] if self.averages else self.weights

    def get_saved(self) -> dict[str, keras.Variable | Variables]:
        """Return the content of a checkpoint: variables, and dicts of variables, by stable names."""
        return {
            "step": self.step,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "loss_scale": self.loss_scale,
            "updates_since_scaling": self.updates_since_scaling,
            "first_moments": self.first_moments,
            "second_moments": self.second_moments,
            "weights": self.weights,
            **{f"average{index}": average for index, average in enumerate(self.averages)},
        }

    def list_variables(self) -> list[keras.Variable]:
        """Return all variables, always in the same order."""
        saved = [variable for _, variable in iter_variables(self.get_saved())]
        return [*saved, self.learning_rate_scale]


def iter_variables(tree: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the leaves of `State.get_saved`, or of a dict like it, with their names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            for path, variable in value.items():
                yield f"{name}/{path}", variable
        else:
            yield name, value


def read_scalar(variable: keras.Variable) -> int | float:
    """Return the value of a scalar variable."""
    return variable.numpy().item()


def _zeros_like(weight: keras.Variable) -> keras.Variable:
    return keras.Variable(np.zeros(weight.shape, "float32"), trainable=False)


def _copy(weight: keras.Variable) -> keras.Variable:
    return keras.Variable(weight.numpy(), trainable=False)


def _make_scalar(value: float, dtype: str) -> keras.Variable:
    return keras.Variable(np.asarray(value, dtype), dtype=dtype, trainable=False)
