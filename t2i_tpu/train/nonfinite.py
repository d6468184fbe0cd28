"""Finds the first infinite or NaN value in the computation of a training step."""

import contextlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import NUM_BANDS, Batch, compute_losses, corrupt_batch


def has_diverged(state: TrainState, max_skipped: int, final_metrics: dict[str, float]) -> bool:
    """Return whether too many steps in a row were skipped, or a run ends with a non-finite loss.

    Args:
      state: the run's state.
      max_skipped: the number of skipped steps that is too high.
      final_metrics: the metrics of the run's last device loop, or {} before the end.
    """
    skipped = int(state.skipped_in_a_row.numpy())
    is_finite = all(map(math.isfinite, final_metrics.values()))
    return skipped >= max_skipped or (skipped > 0 and not is_finite)


def check_final_loss(metrics: dict[str, float], workdir: str) -> None:
    """Raise UserError if a run has ended with an infinite or NaN loss.

    Its weights are finite, because steps with non-finite gradients do not change them, but the model is
    probably useless. If the run recovered before its last step, it passes.

    Args:
      metrics: the metrics that the last checkpoint stores.
      workdir: the run's workdir, for the message.
    """
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss) and metrics.get("skipped_in_a_row", 1):
        raise UserError(
            f"the run in {workdir} has ended, but its last loss is {loss}, so its model is probably "
            "useless; train again in another --workdir with a lower config.train.learning_rate"
        )


def find_first_nonfinite(
    config: Config, state: TrainState, batches: Iterable[Batch], step: int
) -> str:
    """Recompute a step layer by layer, and return a clause that names the first non-finite value.

    Args:
      config: resolved.
      state: the run's state after the step.
      batches: the step's batch, one replica's share at a time.
      step: number of the step, counted from 0.
    """
    for batch in batches:
        for name, values, levels in _compute_in_order(config, state, batch, step):
            is_bad = ~np.isfinite(values.numpy().astype(np.float32))
            if is_bad.any():
                if len(is_bad) == len(levels):
                    levels = levels[is_bad.reshape(len(is_bad), -1).any(axis=1)]
                bands = _format_bands(levels)
                return f"{name} is the first non-finite value, at noise levels {bands}"
    return "recomputing the step gives finite values, so suspect the hardware or the compiler"


def _compute_in_order(config, state, batch, step) -> Iterator[tuple[str, tf.Tensor, np.ndarray]]:
    """Yield (name, tensor, noise level of each example) in the order of the computation."""
    # The inputs and the weights.
    path = state.denoiser.diffusion_path
    examples = corrupt_batch(config, path, batch, tf.constant(step, tf.int64))
    levels = examples["noise_level"].numpy()
    for name, values in examples["condition"].items():
        if values.dtype.is_floating:
            yield f"the data's {name}", values, levels
    weights = [tf.convert_to_tensor(weight) for weight in state.weights]
    for variable, weight in zip(state.denoiser.trainable_variables, weights, strict=True):
        yield f"weight {variable.path}", weight, levels
    # The forward pass.
    with tf.GradientTape() as tape, _record_outputs(state.denoiser) as outputs:
        tape.watch(examples["noisy"])
        losses, _ = compute_losses(config, state.denoiser, examples)
        loss = tf.reduce_sum(losses) * (state.loss_scale / config.train.global_batch_size)
    for path, output in outputs:
        yield f"the output of {path}", output, levels
    yield "the loss", losses, levels
    # The backward pass, from the last layer to the first.
    gradients = tape.gradient(loss, [output for _, output in outputs] + state.weights)
    for (path, _), gradient in zip(
        reversed(outputs), gradients[len(outputs) - 1 :: -1], strict=True
    ):
        if gradient is not None:
            yield f"the gradient at the output of {path}", gradient, levels
    variables = state.denoiser.trainable_variables
    for variable, gradient in zip(variables, gradients[len(outputs) :], strict=True):
        if gradient is not None:
            yield f"the gradient of {variable.path}", tf.convert_to_tensor(gradient), levels


@contextlib.contextmanager
def _record_outputs(denoiser: Denoiser) -> Iterator[list[tuple[str, tf.Tensor]]]:
    """Yield a list that collects (path of the layer, output) while the denoiser computes."""
    outputs, layers = [], denoiser._flatten_layers()

    def wrap(layer, call):
        def call_and_record(*args, **kwargs):
            result = call(*args, **kwargs)
            outputs.extend((layer.path, tensor) for tensor in _float_outputs(result))
            return result

        return call_and_record

    # Keras does not allow assigning to a method of a layer, so bypass its __setattr__.
    for layer in layers:
        object.__setattr__(layer, "call", wrap(layer, layer.call))
    try:
        yield outputs
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _float_outputs(result) -> list[tf.Tensor]:
    """Return the float tensors of a layer's result, without its batch statistics."""
    if isinstance(result, tuple) and isinstance(result[-1], dict):
        result = result[0]
    tensors = [value for value in tf.nest.flatten(result) if tf.is_tensor(value)]
    return [tensor for tensor in tensors if tensor.dtype.is_floating]


def _format_bands(levels: np.ndarray) -> str:
    """Return the range of the noise-level bands that hold these levels."""
    bands = np.minimum((levels * NUM_BANDS).astype(int), NUM_BANDS - 1)
    return f"{bands.min() / NUM_BANDS:.2f} to {(bands.max() + 1) / NUM_BANDS:.2f}"
