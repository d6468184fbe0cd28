"""Draws images from a model, compiled once for one batch size and spread over replicas."""

import numpy as np
import tensorflow as tf

from t2i_tpu.config import Config, SampleConfig
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser, build_denoiser
from t2i_tpu.sample.generate import draw_noise, generate, to_uint8


class Generator:
    """Draws images in batches of a fixed size, because the size could affect an image's last bits.

    Attributes:
      denoiser: the model.
      batch_size: number of images that are drawn at once, over all replicas.
      replica_images: the compiled function that draws one replica's images. It maps conditions,
        noise and seeds to int32 [b, H, W, C], because collectives cannot gather uint8. A value that is
        infinite or NaN becomes -1.
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
        def replica_images(condition, noise, seeds):
            images = generate(denoiser, condition, noise, seeds, sample)
            return tf.where(tf.math.is_finite(images), tf.cast(to_uint8(images), tf.int32), -1)

        # Compiling the strategy's call too avoids running Python for every batch and replica.
        @tf.function(autograph=False)
        def all_images(condition, noise, seeds):
            return strategy.run(replica_images, (condition, noise, seeds))

        self.replica_images, self._images = replica_images, all_images

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
            inputs = tf.nest.map_structure(
                lambda values: self._distribute(_repeat(values, self.batch_size)),
                (batch, batch_noise, seeds[rows]),
            )
            result = self._images(*inputs)
            images = self.strategy.gather(result, axis=0).numpy()
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

    def trace(self) -> tf.Graph:
        """Return the graph that draws a batch, without running it."""
        inputs = tf.nest.map_structure(self._distribute, self.example_inputs(self.batch_size))
        return self._images.get_concrete_function(*inputs).graph

    def _distribute(self, batch: np.ndarray) -> tf.distribute.DistributedValues:
        """Give each replica an equal share of a batch."""
        share = len(batch) // self.strategy.num_replicas_in_sync

        def take_share(context):
            start = context.replica_id_in_sync_group * share
            return tf.constant(batch[start : start + share])

        return self.strategy.experimental_distribute_values_from_function(take_share)


def build_generator(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    dtype_policy: str,
    jit_compile: bool,
) -> Generator:
    """Return a generator with a new model. The caller restores its weights.

    Args:
      config: resolved.
      manifest: the manifest of the data set that the model is trained on.
      strategy: holds the model's variables and runs the sampler.
      dtype_policy: a Keras dtype policy.
      jit_compile: whether XLA compiles the sampler.

    Raises:
      UserError: the config's blocks do not support its kind of condition.
    """
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    with strategy.scope():
        denoiser = build_denoiser(config, manifest.channels, spec, dtype_policy)
    return Generator(strategy, denoiser, config.sample, jit_compile=jit_compile)


def _repeat(batch: np.ndarray, size: int) -> np.ndarray:
    """Repeat a batch until it has `size` rows."""
    return np.resize(batch, (size, *batch.shape[1:]))
