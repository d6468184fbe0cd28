"""Draws images from a model, compiled once for one batch size and spread over replicas."""

import numpy as np
from keras import ops, tree

from t2i_tpu.config import SampleConfig
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.sample.generate import draw_noise, generate, to_uint8
from t2i_tpu.step.state import Variables


class Generator:
    """Draws images in batches of a fixed size, because the size could affect an image's last bits.

    Attributes:
      denoiser: the model.
      batch_size: number of images that are drawn at once, over all replicas.
      draw_batch: the compiled function that draws a batch. It maps conditions, noise and seeds to int32
        [b, H, W, C], because collectives cannot gather uint8. A value that is infinite or NaN becomes
        -1.
    """

    def __init__(
        self,
        engine: Engine,
        denoiser: Denoiser,
        weights: Variables,
        sample: SampleConfig,
        jit_compile: bool,
        per_replica_batch_size: int = 8,
    ):
        """Create a generator. Nothing is compiled yet.

        Args:
          engine: computes the images.
          denoiser: the model.
          weights: the variables, by path, whose values replace those of the model.
          sample: the `sample` group of a resolved config.
          jit_compile: whether XLA compiles the sampler.
          per_replica_batch_size: number of images that each replica draws at once.
        """
        self.denoiser = denoiser
        self.batch_size = per_replica_batch_size * engine.num_replicas

        def draw_batch(condition, noise, seeds):
            images = generate(denoiser, condition, noise, seeds, sample)
            return ops.where(ops.isfinite(images), ops.cast(to_uint8(images), "int32"), -1)

        pairs = [(variable, weights[variable.path]) for variable in denoiser.variables]
        self.draw_batch = engine.compile_inference(draw_batch, pairs, jit_compile)

    def draw(
        self, conditions: dict[str, np.ndarray], seeds: np.ndarray, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw one image for each condition.

        Args:
          conditions: a batch of N conditions.
          seeds: integer [N], the seed of each image.
          noise: float32 [N, H, W, C], the noise to start from, or None for the noise of the seeds.

        Returns:
          uint8 [N, H, W, C].

        Raises:
          UserError: the model draws infinite or NaN values.
        """
        seeds = np.asarray(seeds, np.int64)
        drawn = []
        for start in range(0, len(seeds), self.batch_size):
            rows = slice(start, start + self.batch_size)
            batch = {name: values[rows] for name, values in conditions.items()}
            batch_noise = self.initial_noise(seeds[rows]) if noise is None else noise[rows]
            inputs = tree.map_structure(
                lambda values: _repeat(values, self.batch_size), (batch, batch_noise, seeds[rows])
            )
            images = self.draw_batch(*inputs)
            if images.min() < 0:
                raise UserError(
                    "the model draws infinite or NaN values; use an earlier checkpoint, with a "
                    "finite loss, or train again with a lower config.train.learning_rate"
                )
            drawn.append(images.astype(np.uint8))
        return np.concatenate(drawn)[: len(seeds)]

    def initial_noise(self, seeds: np.ndarray) -> np.ndarray:
        """Return the initial noise for integer seeds [N], float32 [N, H, W, C]."""
        return np.asarray(draw_noise(np.asarray(seeds), self.denoiser.image_shape))

    def example_inputs(self, batch_size: int) -> tuple[dict, np.ndarray, np.ndarray]:
        """Return conditions, noise and seeds of the right shapes, all zero, for tracing."""
        noise = np.zeros((batch_size, *self.denoiser.image_shape), np.float32)
        null = self.denoiser.condition_spec.null(batch_size)
        return null, noise, np.zeros(batch_size, np.int64)


def _repeat(batch: np.ndarray, size: int) -> np.ndarray:
    """Repeat a batch until it has `size` rows."""
    return np.resize(batch, (size, *batch.shape[1:]))
