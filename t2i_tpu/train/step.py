"""One replica's share of a training step, and the device loop that repeats it.

To add a training scalar, name it in METRICS and compute it in `replica_step`. Metrics are summed
over the replicas and over the steps of a log line, and train/metrics.py divides the sums by the
number of steps. A replica therefore returns its share: for a mean over the batch, the sum over its
own examples divided by the global batch size. A value that is the same on every replica belongs in
`shared`, which only the first replica contributes.
"""

from collections.abc import Callable

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.diffusion import prediction
from t2i_tpu.diffusion.losses import LOSS_WEIGHTS, LOSSES
from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS
from t2i_tpu.diffusion.path import corrupt
from t2i_tpu.models.conditioning import drop_conditions
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, make_keys, normal, uniform
from t2i_tpu.train.optimizer import apply_gradients
from t2i_tpu.train.state import TrainState

Batch = dict[str, object]  # image, condition and slot, as `Dataset.batches` describes them
Metrics = dict[str, tf.Tensor]  # float32 scalars

# The loss is reported in bands of noise level, all of the same width.
NUM_BANDS = 4
BAND_NAMES = tuple(
    f"{band / NUM_BANDS:.2f}_to_{(band + 1) / NUM_BANDS:.2f}" for band in range(NUM_BANDS)
)
# The names of the metrics. The device loop needs them before the step is traced.
METRICS = (
    *(f"loss/{name}" for name in BAND_NAMES),
    *(f"examples/{name}" for name in BAND_NAMES),
    "gradient_norm",
    "skipped_steps",
    "steps",
)


def corrupt_batch(config: Config, path, batch: Batch, step: tf.Tensor) -> dict[str, tf.Tensor]:
    """Add noise to a batch, and flip images and drop conditions at random.

    Every random draw is keyed by the step and the example's slot.

    Args:
      config: resolved.
      path: a function from `diffusion.path.PATHS`.
      batch: image uint8 [b, H, W, C], condition, and slot int32 [b].
      step: integer scalar, the global step.

    Returns:
      A dict of image, noise and noisy, float32 [b, H, W, C]; noise_level, float32 [b]; and
      condition, in which some conditions are replaced by the null condition.
    """

    def draw(purpose):
        return uniform(make_keys(config.seed, purpose, step, batch["slot"]))

    image = tf.cast(batch["image"], tf.float32) / 127.5 - 1.0
    if config.data.horizontal_flip:
        flip = draw(Purpose.FLIP)[:, None, None, None] < 0.5
        image = tf.where(flip, tf.reverse(image, [2]), image)
    noise = normal(make_keys(config.seed, Purpose.NOISE, step, batch["slot"]), image.shape[1:])
    noise_level = NOISE_LEVELS[config.diffusion.noise_levels](draw(Purpose.NOISE_LEVEL))
    keep = draw(Purpose.COND_DROPOUT) >= config.diffusion.cond_dropout_rate
    return {
        "image": image,
        "noise": noise,
        "noise_level": noise_level,
        "noisy": corrupt(path, image, noise, noise_level[:, None, None, None]),
        "condition": drop_conditions(batch["condition"], keep),
    }


def compute_losses(
    config: Config, denoiser: Denoiser, examples: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Return the loss of each example, float32 [b], and the batch statistics of `Denoiser.call`.

    Args:
      config: resolved.
      denoiser: the model.
      examples: the result of `corrupt_batch`.
    """
    level = examples["noise_level"][:, None, None, None]
    prediction_type, path = config.diffusion.prediction_type, denoiser.diffusion_path
    output, statistics = denoiser(
        examples["noisy"], examples["noise_level"], examples["condition"], training=True
    )
    target = prediction.target(prediction_type, path, examples["image"], examples["noise"], level)
    error = LOSSES[config.diffusion.loss](output - target)
    weigh = LOSS_WEIGHTS[config.diffusion.loss_weight]
    weight = weigh(prediction_type, path, examples["noise_level"])
    return weight * tf.reduce_mean(error, axis=[1, 2, 3]), statistics


def make_replica_step(
    config: Config, state: TrainState, jit_compile: bool
) -> Callable[[Batch], Metrics]:
    """Return a function that trains one step on a replica's batch and returns its metrics.

    The caller sums the metrics over the replicas.
    """
    # Dividing by the global batch size makes the loss independent of the number of replicas.
    global_batch_size = config.train.global_batch_size

    @tf.function(jit_compile=jit_compile, autograph=False)
    def forward_backward(examples, loss_scale):
        with tf.GradientTape() as tape:
            losses, statistics = compute_losses(config, state.denoiser, examples)
            loss = tf.reduce_sum(losses) * (loss_scale / global_batch_size)
        gradients = map(_densify, tape.gradient(loss, state.weights), state.weights)
        return list(gradients), losses, statistics

    def replica_step(batch: Batch) -> Metrics:
        context = tf.distribute.get_replica_context()
        # Corrupt the images, denoise them, and differentiate the loss.
        examples = corrupt_batch(config, state.denoiser.diffusion_path, batch, state.step)
        gradients, losses, statistics = forward_backward(examples, tf.identity(state.loss_scale))
        # Combine the results of the replicas.
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if statistics:
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, statistics)
        # Update the weights.
        norm, skipped = apply_gradients(state, config.train, gradients, statistics)
        # Compute the metrics.
        is_first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        shared = {
            "gradient_norm": tf.math.multiply_no_nan(norm, 1.0 - skipped),
            "skipped_steps": skipped,
            "steps": tf.ones([]),
        }
        return {
            **_sum_by_noise_level(losses, examples["noise_level"]),
            **{name: is_first * value for name, value in shared.items()},
        }

    return replica_step


def _sum_by_noise_level(losses: tf.Tensor, noise_level: tf.Tensor) -> Metrics:
    """Return the sum of the losses and the number of examples in each band of noise level."""
    band = tf.minimum(tf.cast(noise_level * NUM_BANDS, tf.int32), NUM_BANDS - 1)
    in_band = tf.one_hot(band, NUM_BANDS)
    sums = tf.unstack(tf.linalg.matvec(in_band, losses, transpose_a=True))
    counts = tf.unstack(tf.reduce_sum(in_band, 0))
    return {
        **{f"loss/{name}": value for name, value in zip(BAND_NAMES, sums, strict=True)},
        **{f"examples/{name}": value for name, value in zip(BAND_NAMES, counts, strict=True)},
    }


def _densify(gradient, weight):
    """Convert an embedding table's sparse gradient (tf.IndexedSlices) to a dense tensor.

    TensorFlow's own conversion has no static shape, which a TPU needs.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, weight.shape[0])


def make_device_loop(
    strategy: tf.distribute.Strategy, replica_step: Callable[[Batch], Metrics], waiting: tf.Variable
) -> Callable:
    """Return a function that runs several steps on the device.

    Args:
      strategy: the strategy whose replicas run the step.
      replica_step: made by `make_replica_step`.
      waiting: a bool variable that is true while the loop waits for input. Other threads read it.

    Returns:
      A tf.function (iterator, number of steps) -> (metrics, seconds) that returns the metrics,
      summed over replicas and steps, and the time spent waiting for input.
    """

    # Only the loop itself needs autograph.
    @tf.autograph.experimental.do_not_convert
    def stacked_step(batch):
        metrics = replica_step(batch)
        if metrics.keys() != set(METRICS):
            difference = metrics.keys() ^ set(METRICS)
            raise ValueError(
                f"METRICS and the step's metrics differ in {sorted(difference)}; METRICS must list "
                "the names that the step returns"
            )
        return tf.stack([metrics[name] for name in METRICS])

    @tf.autograph.experimental.do_not_convert
    def run_step(batch):
        # Reduce one stacked tensor, because each reduction costs a round trip between workers.
        stacked = strategy.run(stacked_step, (batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, stacked, axis=None)

    @tf.function
    def device_loop(iterator, num_steps):
        total, waited = tf.zeros([len(METRICS)]), tf.zeros([], tf.float64)
        for _ in tf.range(num_steps):
            begin = tf.timestamp()
            with tf.control_dependencies([begin, waiting.assign(True, read_value=False)]):
                batch = next(iterator)
            with tf.control_dependencies(
                tf.nest.flatten(strategy.experimental_local_results(batch))
            ):
                waited += tf.timestamp() - begin
                waiting.assign(False, read_value=False)
            total += run_step(batch)
        return dict(zip(METRICS, tf.unstack(total), strict=True)), waited

    return device_loop
