"""One replica's share of a training step, and the device loop that repeats it."""

from collections.abc import Callable

import keras
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.engines.engine import TrainLoop
from t2i_tpu.step.metrics import METRICS, measure_step, name_metrics
from t2i_tpu.step.objective import Batch, compute_losses, corrupt_batch, scale_loss
from t2i_tpu.step.optimizer import EPSILON, apply_update, prepare_update
from t2i_tpu.step.state import State


def make_replica_step(
    config: Config, state: State, jit_compile: bool
) -> Callable[[Batch], tf.Tensor]:
    """Return a function that trains one step on a replica's batch and returns its metrics.

    The caller sums the metrics over the replicas. In MirroredStrategy, the variables are updated in
    the cross-replica context, once for each device.
    """
    trained = [weight.value for weight in state.denoiser.trainable_variables]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def forward_backward(examples, loss_scale):
        with tf.GradientTape() as tape:
            losses, statistics = compute_losses(config, state.denoiser, examples)
            loss = scale_loss(config, losses, loss_scale)
        gradients = map(densify, tape.gradient(loss, trained), trained)
        return list(gradients), losses, statistics

    def update(strategy, *inputs):
        def update_device(_, *inputs):
            apply_update(state, config.train, *inputs, apply_adam=apply_fused_adam)

        strategy.extended.update(state.step.value, update_device, args=inputs, group=False)

    def replica_step(batch: Batch) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        # Corrupt the images, denoise them, and differentiate the loss.
        step = tf.identity(state.step.value)
        examples = corrupt_batch(config, state.denoiser.diffusion_path, batch, step)
        loss_scale = tf.identity(state.loss_scale.value)
        gradients, losses, statistics = forward_backward(examples, loss_scale)
        # Combine the results of the replicas, and update the state.
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if statistics:
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, statistics)
        gradients, factors = prepare_update(state, config.train, gradients)
        context.merge_call(update, args=(gradients, statistics, factors))
        # Compute the metrics.
        is_first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        skipped = 1.0 - factors["applied"]
        return measure_step(losses, examples["noise_level"], factors["norm"], skipped, is_first)

    return replica_step


def densify(gradient, weight):
    """Convert an embedding table's sparse gradient (tf.IndexedSlices) to a dense tensor.

    TensorFlow's own conversion has no static shape, which a TPU needs.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, weight.shape[0])


def apply_fused_adam(
    weight: keras.Variable,
    first_moment: keras.Variable,
    second_moment: keras.Variable,
    gradient: tf.Tensor,
    factors: dict[str, tf.Tensor],
) -> None:
    """Compute the same as `step.optimizer.apply_adam` in one pass over the memory."""
    tf.raw_ops.ResourceApplyAdam(
        var=weight.value.handle,
        m=first_moment.value.handle,
        v=second_moment.value.handle,
        grad=gradient,
        beta1_power=factors["power_1"],
        beta2_power=factors["power_2"],
        lr=factors["rate"],
        beta1=factors["decay_1"],
        beta2=factors["decay_2"],
        epsilon=EPSILON,
    )


class TensorFlowTrainLoop(TrainLoop):
    """Runs the replica step in a loop on the devices of a strategy.

    Attributes:
      replica_step: see `make_replica_step`.
      function: a tf.function (iterator, number of steps) -> (metrics, seconds of waiting for input).
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, config: Config, state: State, jit_compile: bool
    ):
        self._waiting = tf.Variable(False, trainable=False)
        self.replica_step = make_replica_step(config, state, jit_compile)
        self.function = make_device_loop(strategy, self.replica_step, self._waiting)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting.numpy())

    def run(self, batches, num_steps):
        metrics, waited = self.function(batches, tf.constant(num_steps))
        return name_metrics(metrics.numpy()), float(waited)

    def trace(self, batches):
        return self.function.get_concrete_function(batches, tf.constant(1)).graph


def make_device_loop(
    strategy: tf.distribute.Strategy,
    replica_step: Callable[[Batch], tf.Tensor],
    waiting: tf.Variable,
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
    def run_step(batch):
        metrics = strategy.run(replica_step, (batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, metrics, axis=None)

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
        return total, waited

    return device_loop
