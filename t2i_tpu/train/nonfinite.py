"""When gradients stay infinite or NaN: where it begins, and the way back to a good checkpoint."""

import contextlib
import json
import posixpath
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.run import checkpoint_store
from t2i_tpu.storage import files
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import NUM_BANDS, Batch, corrupted, losses

LEARNING_RATE_FACTOR = 0.5  # of each way back


def located(config: Config, state: TrainState, batches: Iterable[Batch], step: int) -> str:
    """Computes a step again, layer by layer, and says what was the first not to be finite.

    Args:
      batches: of that step, a replica's batch at a time.
    """
    for batch in batches:
        for what, values, levels in _in_order(config, state, batch, step):
            bad = ~np.isfinite(values.numpy().astype(np.float32))
            if bad.any():
                if len(bad) == len(levels):
                    levels = levels[bad.reshape(len(bad), -1).any(axis=1)]
                return f"{what} is the first, at noise levels {_bands(levels)}"
    return "computed again it is finite: the device errs, or what it compiled does"


def _in_order(config, state, batch, step) -> Iterator[tuple[str, tf.Tensor, np.ndarray]]:
    """(what, tensor, noise level of each example), in the order of the computation."""
    examples = corrupted(config, state.denoiser.diffusion_path, batch, tf.constant(step, tf.int64))
    levels = examples["noise_level"].numpy()
    if examples["condition"].dtype.is_floating:
        yield "the data's condition", examples["condition"], levels
    weights = [tf.convert_to_tensor(weight) for weight in state.weights]
    for variable, weight in zip(state.denoiser.trainable_variables, weights, strict=True):
        yield f"weight {variable.path}", weight, levels
    with tf.GradientTape() as tape, _outputs(state.denoiser) as outputs:
        tape.watch(examples["noisy"])
        each = losses(config, state.denoiser, examples)
        loss = tf.reduce_sum(each) * (state.loss_scale / config.train.global_batch_size)
    for path, output in outputs:
        yield f"the output of {path}", output, levels
    yield "the loss", each, levels
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
def _outputs(denoiser: Denoiser) -> Iterator[list[tuple[str, tf.Tensor]]]:
    """Fills a list of (layer, output) while the denoiser computes."""
    outputs, layers = [], denoiser._flatten_layers()

    def watched(layer, call):
        def watching(*args, **kwargs):
            result = call(*args, **kwargs)
            outputs.extend(
                (layer.path, tensor)
                for tensor in tf.nest.flatten(result)
                if tf.is_tensor(tensor) and tensor.dtype.is_floating
            )
            return result

        return watching

    for layer in layers:
        object.__setattr__(layer, "call", watched(layer, layer.call))
    try:
        yield outputs
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _bands(levels):
    """The bands of the loss by noise level that hold these levels, as one range."""
    bands = np.minimum((levels * NUM_BANDS).astype(int), NUM_BANDS - 1)
    return f"{bands.min() / NUM_BANDS:.2f} to {(bands.max() + 1) / NUM_BANDS:.2f}"


class Rollbacks:
    """The times that a run went back, kept in its workdir so that a resumed run knows of them."""

    def __init__(self, workdir: str):
        self.path = posixpath.join(workdir, "rollbacks.json")
        self.records = []
        if not tf.io.gfile.exists(self.path):
            return
        try:
            with tf.io.gfile.GFile(self.path, "rb") as file:
                self.records = [
                    {name: int(record[name]) for name in ("at", "to")}
                    for record in json.loads(file.read())
                ]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); remove it to go on at the full learning rate"
            ) from error

    @property
    def learning_rate_scale(self) -> float:
        return LEARNING_RATE_FACTOR ** len(self.records)

    def target(self, workdir: str, began: int) -> int:
        """The step of the newest checkpoint from before the trouble began that was not gone back to
        yet; 0 if there is none."""
        tried = {record["to"] for record in self.records}
        found = (
            version.step for version in checkpoint_store.iter_intact(workdir, before=began + 1)
        )
        return next((step for step in found if step not in tried), 0)

    def add(self, at: int, to: int, write: bool) -> None:
        self.records.append({"at": at, "to": to})
        if write:
            files.write(self.path, json.dumps(self.records, indent=1) + "\n")
