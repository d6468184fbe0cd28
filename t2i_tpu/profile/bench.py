"""Measures the speed of a training step and its utilization of the machine."""

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.profile import cost
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.retention import Retention
from t2i_tpu.training.trainer import Trainer, build_trainer

# Rows and columns of the square matrix products that define the machine's peak.
PEAK_SIZE = 2048
_PEAK_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class CheckpointCost:
    """The cost of saving a checkpoint on this machine's disk.

    Attributes:
      num_bytes: size of the checkpoint.
      copy_seconds: time for which a save blocks training, in each round.
      processor_seconds: processor time of the entire save, in each round.
      added_seconds: additional time that the same steps take during a save, in each round.
    """

    num_bytes: int
    copy_seconds: list[float]
    processor_seconds: list[float]
    added_seconds: list[float]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The speed of a config's training step.

    Attributes:
      parameters: number of trained parameters.
      global_batch_size: images in a step, over all replicas.
      dtype_policy: the Keras policy of the model.
      jit_compile: whether XLA compiles the step.
      num_replicas: number of devices that share the batch.
      trace_seconds: time that the framework needs to trace the step.
      first_step_seconds: duration of the first step, which includes compilation.
      steps_per_round: number of steps that were timed together.
      step_seconds: duration of a step, in each round.
      product_flops: FLOPs of the convolutions and matrix products of a step.
      peak_flops_per_s: rate of a large matrix product, before and after each round.
      peak_dtype: dtype of that matrix product.
      product_share: share of the time inside ops that is spent in convolutions and matrix products;
        None if not known.
      checkpoint: cost of saving a checkpoint.
    """

    parameters: int
    global_batch_size: int
    dtype_policy: str
    jit_compile: bool
    num_replicas: int
    trace_seconds: float
    first_step_seconds: float
    steps_per_round: int
    step_seconds: list[float]
    product_flops: int
    peak_flops_per_s: list[float]
    peak_dtype: str
    product_share: float | None
    checkpoint: CheckpointCost

    @property
    def flops_per_s(self) -> float:
        """The rate at which the median step computes its products."""
        return self.product_flops / statistics.median(self.step_seconds)

    @property
    def utilization(self) -> float:
        """The rate of the median step as a share of the median peak."""
        return self.flops_per_s / statistics.median(self.peak_flops_per_s)


def measure(
    config: Config, strategy_name: str = "auto", rounds: int = 5, steps: int = 5
) -> Measurement:
    """Measure a config's training step.

    The peak and the steps are timed alternately, because a busy machine then slows down both.

    Args:
      config: not resolved yet.
      strategy_name: one of config.STRATEGIES.
      rounds: how often to repeat the measurement.
      steps: number of steps in a round.
    """
    # Build the train loop.
    config = config_lib.resolve(config)
    engine = make_engine(strategy_name)
    folder = locate(config.data.source)
    dataset = open_dataset(folder, config.model.conditioning, config.data.image_size)
    trainer = build_trainer(config, engine, dataset.manifest)
    iterator = trainer.make_iterator(dataset)

    def run_steps(count: int = steps):
        return trainer.loop.run(iterator, count)

    # Trace and compile it.
    begin = time.perf_counter()
    flops = _count_product_flops(trainer.loop.trace(iterator))
    trace_seconds = time.perf_counter() - begin
    first_step_seconds = _time(lambda: run_steps(1))

    # Time the steps and the peak.
    peak = _Peak(trainer.dtype_policy)
    step_seconds, peak_flops_per_s = [], []
    for _ in range(rounds):
        peak_flops_per_s.append(peak.measure())
        step_seconds.append(_time(run_steps) / steps)
        peak_flops_per_s.append(peak.measure())

    return Measurement(
        parameters=trainer.count_parameters(),
        global_batch_size=config.train.global_batch_size,
        dtype_policy=trainer.dtype_policy,
        jit_compile=trainer.jit_compile,
        num_replicas=engine.num_replicas,
        trace_seconds=trace_seconds,
        first_step_seconds=first_step_seconds,
        steps_per_round=steps,
        step_seconds=step_seconds,
        product_flops=flops,
        peak_flops_per_s=peak_flops_per_s,
        peak_dtype=peak.dtype,
        product_share=_measure_product_share(run_steps),
        checkpoint=_measure_checkpoint(trainer, run_steps, rounds),
    )


class _Peak:
    """Measures the machine's rate of multiply-adds in a large matrix product."""

    def __init__(self, dtype_policy: str):
        self.dtype = dtype_policy.removeprefix("mixed_")
        factor = np.random.default_rng(0).standard_normal([PEAK_SIZE, PEAK_SIZE], np.float32)
        factor, multiply = ops.cast(factor, self.dtype), _compile(ops.matmul)
        self._multiply = lambda: multiply(factor, factor)
        self._multiply()

    def measure(self) -> float:
        """Return the FLOPs per second of the fastest of a few products."""
        seconds = min(_time(self._multiply) for _ in range(_PEAK_REPEATS))
        return 2 * PEAK_SIZE**3 / seconds


def _count_product_flops(program: object) -> int:
    """Return the FLOPs of the products of a step that a train loop has traced."""
    if keras.backend.backend() == "jax":
        from t2i_tpu.profile import jax_cost

        return jax_cost.count_product_flops(program)
    return cost.count_product_flops(program)


def _compile(function: Callable) -> Callable:
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return tf.function(function, autograph=False)


def _measure_checkpoint(trainer: Trainer, run_steps: Callable, rounds: int) -> CheckpointCost:
    """Measure the cost of a save, alone and while steps run.

    Args:
      trainer: holds the state to save.
      run_steps: runs the steps of a round.
      rounds: how often to repeat the measurement.
    """
    copy_seconds, processor_seconds, added_seconds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        saved = trainer.state.get_saved()
        checkpointer = Checkpointer(trainer.engine, folder, saved, Retention(last=1))
        # The first save allocates the copies, so it does not count.
        for _ in range(rounds + 1):
            # Save while nothing else runs.
            begin, processor_begin = time.perf_counter(), time.process_time()
            checkpointer.save()
            copy_seconds.append(time.perf_counter() - begin)
            checkpointer.finish()
            processor_seconds.append(time.process_time() - processor_begin)
            save_seconds = time.perf_counter() - begin

            # Train long enough for a save to finish.
            turns = 1 + math.ceil(2 * save_seconds / _time(run_steps))
            plain_seconds = sum(_time(run_steps) for _ in range(turns))

            # Train as long again while saving.
            begin = time.perf_counter()
            checkpointer.save()
            for _ in range(turns):
                _time(run_steps)
            checkpointer.finish()
            added_seconds.append(time.perf_counter() - begin - plain_seconds)
        (checkpoint,) = checkpoint_store.iter_intact(folder)
    return CheckpointCost(
        checkpoint.num_bytes, copy_seconds[1:], processor_seconds[1:], added_seconds[1:]
    )


def _measure_product_share(run_steps: Callable) -> float | None:
    """Return the share of the time inside ops that is spent in convolutions and matrix products.

    It is None if TensorFlow's profiler recorded no such op: it does not record JAX's, and some devices
    report no ops.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        _time(lambda: run_steps(2))
        tf.profiler.experimental.stop()
        seconds = cost.read_op_seconds(folder)
    in_products = sum(
        value for op, value in seconds.items() if any(name in op for name in ("Conv2D", "MatMul"))
    )
    return in_products / sum(seconds.values()) if in_products else None


def _time(call: Callable) -> float:
    """Return the seconds that a call needs to compute its results."""
    begin = time.perf_counter()
    np.asarray(tree.flatten(call())[0])
    return time.perf_counter() - begin
