"""Images from a trained model, compiled once for one batch and spread over a strategy's replicas."""

import numpy as np
import tensorflow as tf

from t2i_tpu.config import SampleConfig
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.sample.generate import generate, seeded_noise, to_uint8


class Generator:
    """Draws images in batches of one fixed shape, so that an image does not depend on the others.

    Attributes:
      batch_size: images drawn at once, over all replicas.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        denoiser: Denoiser,
        sample: SampleConfig,
        per_replica_batch_size: int = 8,
        jit_compile: bool = False,
    ):
        self.strategy, self.denoiser = strategy, denoiser
        self.batch_size = per_replica_batch_size * strategy.num_replicas_in_sync

        @tf.function(jit_compile=jit_compile, autograph=False)
        def replica_images(condition, noise):
            images = to_uint8(generate(denoiser, condition, noise, sample))
            return tf.cast(images, tf.int32)  # collectives gather no uint8

        # The strategy's own call is compiled too, so that no Python runs per step or per replica.
        @tf.function(autograph=False)
        def images(condition, noise):
            return strategy.run(replica_images, (condition, noise))

        self._images = images

    def images(self, conditions: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Raw conditions [N, ...] and noise float32 [N, H, W, C] -> uint8 [N, H, W, C]."""
        drawn = []
        for start in range(0, len(noise), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            condition, z = (_filled(part[chunk], self.batch_size) for part in (conditions, noise))
            result = self._images(self._spread(condition), self._spread(z))
            drawn.append(self.strategy.gather(result, axis=0).numpy().astype(np.uint8))
        return np.concatenate(drawn)[: len(noise)]

    def traced(self) -> tf.Graph:
        """The graph that draws a batch, not run."""
        shape = self.denoiser.condition_shape
        condition = np.zeros(shape.batch(self.batch_size), shape.dtype)
        noise = np.zeros((self.batch_size, *self.denoiser.image_shape), np.float32)
        return self._images.get_concrete_function(
            self._spread(condition), self._spread(noise)
        ).graph

    def noise(self, seeds: np.ndarray) -> np.ndarray:
        """Integer seeds [N] -> float32 [N, H, W, C]."""
        return np.asarray(seeded_noise(np.asarray(seeds), self.denoiser.image_shape))

    def _spread(self, batch):
        share = len(batch) // self.strategy.num_replicas_in_sync

        def part(context):
            start = context.replica_id_in_sync_group * share
            return tf.constant(batch[start : start + share])

        return self.strategy.experimental_distribute_values_from_function(part)


def _filled(batch, size):
    """`batch` repeated up to `size` rows."""
    return np.resize(batch, (size, *batch.shape[1:]))
