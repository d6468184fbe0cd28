"""One replica's share of one training step, and the device loop that repeats it."""

from collections.abc import Callable

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.diffusion import prediction
from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS
from t2i_tpu.diffusion.path import corrupt
from t2i_tpu.models.conditioning import drop
from t2i_tpu.random import Purpose, keys, normal, uniform
from t2i_tpu.train.optimizer import apply_gradients
from t2i_tpu.train.state import TrainState

NUM_BANDS = 4  # of noise level, for the loss
Batch = dict[str, tf.Tensor]


def corrupted(config: Config, path, batch: Batch, step: tf.Tensor) -> dict[str, tf.Tensor]:
    """The examples of a batch as the network sees them in a step, all draws keyed by their slots.

    Args:
      config: resolved.
      path: of `diffusion.path`.
      batch: image uint8 [b, H, W, C], condition [b, ...], slot int32 [b].
      step: integer scalar, the global step.

    Returns:
      image, noise, noisy float32 [b, H, W, C]; noise_level float32 [b]; condition as it came, with
      the null condition in place of some.
    """

    def draw(purpose):
        return uniform(keys(config.seed, purpose, step, batch["slot"]))

    image = tf.cast(batch["image"], tf.float32) / 127.5 - 1.0
    if config.data.horizontal_flip:
        flip = draw(Purpose.FLIP)[:, None, None, None] < 0.5
        image = tf.where(flip, tf.reverse(image, [2]), image)
    noise = normal(keys(config.seed, Purpose.NOISE, step, batch["slot"]), image.shape[1:])
    noise_level = NOISE_LEVELS[config.diffusion.noise_levels](draw(Purpose.NOISE_LEVEL))
    keep = draw(Purpose.COND_DROPOUT) >= config.diffusion.cond_dropout_rate
    return {
        "image": image,
        "noise": noise,
        "noise_level": noise_level,
        "noisy": corrupt(path, image, noise, noise_level[:, None, None, None]),
        "condition": drop(batch["condition"], keep),
    }


def losses(config: Config, denoiser, corrupted: dict[str, tf.Tensor]) -> tf.Tensor:
    """The loss of each example, float32 [b]."""
    level = corrupted["noise_level"][:, None, None, None]
    kind, path = config.diffusion.prediction_type, denoiser.diffusion_path
    output = denoiser(
        corrupted["noisy"], corrupted["noise_level"], corrupted["condition"], training=True
    )
    error = output - prediction.target(kind, path, corrupted["image"], corrupted["noise"], level)
    error = tf.abs(error) if config.diffusion.loss == "absolute" else tf.square(error)
    weight = prediction.loss_weight(
        config.diffusion.loss_weight, kind, path, corrupted["noise_level"]
    )
    return weight * tf.reduce_mean(error, axis=[1, 2, 3])


def make_replica_step(
    config: Config, state: TrainState, jit_compile: bool
) -> Callable[[Batch], tf.Tensor]:
    """A function of one replica's batch that trains one step and returns its metrics.

    The metrics are float32 [2 * NUM_BANDS + 3], to be summed over replicas: loss by noise-level
    band, examples by band, and, from the first replica, gradient norm, skipped steps, steps.
    """
    # The ones sum over the whole batch, so that no result depends on the number of replicas.
    batch_size = config.train.global_batch_size

    @tf.function(jit_compile=jit_compile, autograph=False)
    def forward_backward(examples, loss_scale):
        with tf.GradientTape() as tape:
            each = losses(config, state.denoiser, examples)
            loss = tf.reduce_sum(each) * (loss_scale / batch_size)
        gradients = map(_dense, tape.gradient(loss, state.weights), state.weights)
        return list(gradients), each, state.batch_statistics()

    def replica_step(batch: Batch) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        examples = corrupted(config, state.denoiser.diffusion_path, batch, state.step)
        gradients, each, statistics = forward_backward(examples, tf.identity(state.loss_scale))
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if statistics:
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, statistics)
        norm, skipped = apply_gradients(state, config.train, gradients, statistics)
        band = tf.minimum(tf.cast(examples["noise_level"] * NUM_BANDS, tf.int32), NUM_BANDS - 1)
        in_band = tf.one_hot(band, NUM_BANDS)
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        scalars = first * tf.stack([tf.math.multiply_no_nan(norm, 1.0 - skipped), skipped, 1.0])
        return tf.concat(
            [tf.linalg.matvec(in_band, each, transpose_a=True), tf.reduce_sum(in_band, 0), scalars],
            0,
        )

    return replica_step


def _dense(gradient, weight):
    """A table's gradient comes as rows; TensorFlow's own sum of them has no static shape for a TPU."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, weight.shape[0])


def make_device_loop(
    strategy: tf.distribute.Strategy,
    replica_step: Callable,
    waiting: tf.Variable | None = None,  # true while the loop waits for input; for others to read
) -> Callable:
    """(iterator, number of steps) -> the steps' summed metrics and the seconds spent waiting for
    input, all in one tf.function."""
    replica_step = tf.autograph.experimental.do_not_convert(replica_step)  # only the loop has need

    def tell(waits):
        return [] if waiting is None else [waiting.assign(waits, read_value=False)]

    @tf.function
    def device_loop(iterator, num_steps):
        total, waited = tf.zeros([2 * NUM_BANDS + 3]), tf.zeros([], tf.float64)
        for _ in tf.range(num_steps):
            begin = tf.timestamp()
            with tf.control_dependencies([begin, *tell(True)]):
                batch = next(iterator)
            with tf.control_dependencies(
                tf.nest.flatten(strategy.experimental_local_results(batch))
            ):
                waited += tf.timestamp() - begin
                tell(False)
            total += strategy.reduce(
                tf.distribute.ReduceOp.SUM, strategy.run(replica_step, (batch,)), axis=None
            )
        return total, waited

    return device_loop
