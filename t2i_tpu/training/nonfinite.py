"""Finds the first infinite or NaN value in the computation of a training step."""

import contextlib
import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops, tree

from t2i_tpu.data.reader import Dataset
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.step.metrics import NUM_BANDS
from t2i_tpu.step.objective import compute_losses, corrupt_batch, scale_loss
from t2i_tpu.step.state import State, read_scalar
from t2i_tpu.training.trainer import Trainer


def has_diverged(state: State, max_skipped: int, final_metrics: dict[str, float]) -> bool:
    """Return whether too many steps in a row were skipped, or a run ends with a non-finite loss.

    Args:
      state: the run's state.
      max_skipped: the number of skipped steps that is too high.
      final_metrics: the metrics of the run's last device loop, or {} before the end.
    """
    skipped = read_scalar(state.skipped_in_a_row)
    is_finite = all(map(math.isfinite, final_metrics.values()))
    return skipped >= max_skipped or (skipped > 0 and not is_finite)


def find_first_nonfinite(trainer: Trainer, dataset: Dataset, step: int) -> str:
    """Recompute a step layer by layer, and return a clause that names the first non-finite value.

    If there are several processes, every one must call this function; each looks at its own examples.

    Args:
      trainer: holds the state after the step.
      dataset: the data set of the run.
      step: number of the step, counted from 0.
    """
    engine, config = trainer.engine, trainer.config
    weights = [engine.read(weight) for weight in trainer.state.weights.values()]
    loss_scale = read_scalar(trainer.state.loss_scale)
    # One device recomputes the step, so it gets the examples of one replica at a time.
    examples, batch_size = config.train.global_batch_size, trainer.replica_batch_size
    batches = dataset.batches(
        config.seed, examples, batch_size, step, engine.process, engine.num_processes
    )
    count = examples // engine.num_processes // batch_size
    for batch in batches.take(count).as_numpy_iterator():
        recomputed = _Recomputed(trainer, weights, loss_scale, batch, step)
        for name, values in recomputed.iter_values():
            is_bad = ~np.isfinite(values.astype(np.float32))
            if is_bad.any():
                levels = recomputed.levels
                if len(is_bad) == len(levels):
                    levels = levels[is_bad.reshape(len(is_bad), -1).any(axis=1)]
                bands = _format_bands(levels)
                return f"{name} is the first non-finite value, at noise levels {bands}"
    return "recomputing the step gives finite values, so suspect the hardware or the compiler"


class _Recomputed:
    """The values of a step on one batch, as NumPy arrays.

    Attributes:
      levels: the noise level of each example.
    """

    def __init__(self, trainer, weights, loss_scale, batch, step):
        self.trainer, self.weights, self.batch, self.step = trainer, weights, batch, step
        self.loss_scale, self.paths = np.float32(loss_scale), []
        # The gradient at the output of a layer is the gradient of an offset that is added to it.
        # Compute the outputs first, because an offset has the shape of its output.
        (self.levels, self.losses, *self.outputs), _ = self._differentiate([])
        _, self.gradients = self._differentiate([np.zeros_like(array) for array in self.outputs])

    def _differentiate(self, offsets):
        """Return the levels, losses and layers' outputs, and the gradients by weight and offset."""
        config, denoiser = self.trainer.config, self.trainer.state.denoiser

        def compute(arguments):
            weights, offsets = arguments[: len(self.weights)], arguments[len(self.weights) :]
            path = denoiser.diffusion_path
            batch = tree.map_structure(ops.convert_to_tensor, self.batch)
            examples = corrupt_batch(config, path, batch, ops.convert_to_tensor(self.step, "int32"))
            variables = self.trainer.state.weights.values()
            with (
                keras.StatelessScope(list(zip(variables, weights, strict=True))),
                _record_outputs(denoiser, offsets) as outputs,
            ):
                losses, _ = compute_losses(config, denoiser, examples)
            self.paths = [path for path, _ in outputs]
            others = [examples["noise_level"], losses, *(output for _, output in outputs)]
            return scale_loss(config, losses, self.loss_scale), others

        return self.trainer.engine.differentiate(compute, [*self.weights, *offsets])

    def iter_values(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the names and values in the order of the computation."""
        names = list(self.trainer.state.weights)
        # The inputs, the weights and the forward pass.
        for name, values in self.batch["condition"].items():
            if np.issubdtype(values.dtype, np.floating):
                yield f"the data's {name}", values
        for name, values in zip(names, self.weights, strict=True):
            yield f"weight {name}", values
        for path, values in zip(self.paths, self.outputs, strict=True):
            yield f"the output of {path}", values
        yield "the loss", self.losses
        # The backward pass, from the last layer to the first.
        at_outputs = self.gradients[len(names) :]
        for path, values in zip(reversed(self.paths), reversed(at_outputs), strict=True):
            yield f"the gradient at the output of {path}", values
        for name, values in zip(names, self.gradients, strict=False):
            yield f"the gradient of {name}", values


@contextlib.contextmanager
def _record_outputs(denoiser: Denoiser, offsets: list) -> Iterator[list[tuple[str, object]]]:
    """Yield a list that collects (path of the layer, output) while the denoiser computes.

    Args:
      denoiser: the model.
      offsets: what to add to the outputs, in their order, or [].
    """
    outputs, layers = [], denoiser._flatten_layers()

    def record(layer, value):
        if not _is_float_tensor(value):
            return value
        if offsets:
            value = value + offsets[len(outputs)]
        outputs.append((layer.path, value))
        return value

    def wrap(layer, call):
        def call_and_record(*args, **kwargs):
            result = call(*args, **kwargs)
            # The last element of a tuple may be the batch statistics.
            if type(result) is tuple and isinstance(result[-1], dict):
                return record(layer, result[0]), *result[1:]
            return tree.map_structure(lambda value: record(layer, value), result)

        return call_and_record

    # Keras does not allow assigning to a method of a layer, so bypass its __setattr__.
    for layer in layers:
        object.__setattr__(layer, "call", wrap(layer, layer.call))
    try:
        yield outputs
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _is_float_tensor(value) -> bool:
    return ops.is_tensor(value) and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(value.dtype)
    )


def _format_bands(levels: np.ndarray) -> str:
    """Return the range of the noise-level bands that hold these levels."""
    bands = np.minimum((levels * NUM_BANDS).astype(int), NUM_BANDS - 1)
    return f"{bands.min() / NUM_BANDS:.2f} to {(bands.max() + 1) / NUM_BANDS:.2f}"
