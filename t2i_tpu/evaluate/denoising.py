"""Measures how well a model denoises images at fixed noise levels."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from t2i_tpu.diffusion.path import corrupt
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, make_keys, normal
from t2i_tpu.step.state import Variables

NOISE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class DenoisingLoss:
    """Measures the mean squared error between real images and the model's estimates of them.

    Images are in [-1, 1]. The error does not depend on the loss that the model was trained with, so models
    with different losses can be compared.
    """

    def __init__(
        self,
        engine: Engine,
        denoiser: Denoiser,
        weights: Variables,
        jit_compile: bool,
        per_replica_batch_size: int = 32,
    ):
        """Prepare to measure. Nothing is compiled yet.

        Args:
          engine: computes the errors.
          denoiser: the model.
          weights: the variables, by path, whose values replace those of the model.
          jit_compile: whether XLA compiles the model.
          per_replica_batch_size: number of images that each replica denoises at once.
        """
        self.batch_size = per_replica_batch_size * engine.num_replicas

        def compute_errors(inputs, _):
            image, condition, level, number, slot = inputs
            image = ops.cast(image, "float32") / 127.5 - 1.0
            # All examples of a batch have the same number.
            keys = make_keys(0, Purpose.EVALUATION, number[0], slot)
            noise = normal(keys, image.shape[1:])
            noisy = corrupt(denoiser.diffusion_path, image, noise, level[:, None, None, None])
            denoised = denoiser.denoise(noisy, level, condition)
            return ops.mean(ops.square(denoised - image), axis=[1, 2, 3])

        pairs = [(variable, weights[variable.path]) for variable in denoiser.variables]
        self._compute = engine.compile_inference(compute_errors, pairs, jit_compile)

    def measure(
        self,
        images: np.ndarray,
        conditions: dict[str, np.ndarray],
        levels: Sequence[float] = NOISE_LEVELS,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the error of each image at each noise level, float32 [M, number of levels].

        The noise of an image depends only on its position among the M images and on the index of the
        level.

        Args:
          images: uint8 [N, H, W, C].
          conditions: a batch of N conditions.
          levels: noise levels in [0, 1].
          rows: int [M], the positions of the images to measure, or None for all of them.

        Raises:
          UserError: an error is infinite or NaN.
        """
        rows = np.arange(len(images)) if rows is None else rows
        count, size = len(rows), self.batch_size
        errors = np.empty((count, len(levels)), np.float32)
        for start in range(0, count, size):
            slots = np.arange(start, min(start + size, count))
            # Fill the last batch with repeated images, because the compiled batch size is fixed.
            filled = np.resize(slots, size)
            batch_images = images[rows[filled]]
            batch = {name: values[rows[filled]] for name, values in conditions.items()}
            for number, level in enumerate(levels):
                inputs = np.full(size, level, np.float32), np.full(size, number, np.int32), filled
                batch_errors = self._compute((batch_images, batch, *inputs))
                errors[slots, number] = batch_errors[: len(slots)]
        if not np.isfinite(errors).all():
            raise UserError(
                "the denoising loss is infinite or NaN; use an earlier checkpoint, with a finite loss, or "
                "train again with a lower config.train.learning_rate"
            )
        return errors
