"""How fast a training step is, and how much of the machine it uses."""

import math
import statistics
import tempfile
import time

import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.profile.cost import op_seconds, product_flops
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.checkpoint_store import Retention
from t2i_tpu.train.trainer import build_trainer

PEAK_SIZE = 2048  # of the square matrix products that define the peak


def bench(config: Config, strategy_name: str = "auto", rounds: int = 5, steps: int = 5) -> str:
    """Measures a config's training step; returns the report as text.

    The peak and the steps are timed in turns, so that a busy machine slows both.
    """
    config = config_lib.resolve(config)
    strategy = strategy_lib.make_strategy(strategy_name)
    dataset = open_dataset(
        locate(config.data.source), config.model.conditioning, config.data.image_size
    )
    trainer = build_trainer(config, strategy, dataset.manifest)
    state, loop = trainer.state, trainer.device_loop
    policy, xla = trainer.dtype_policy, trainer.jit_compile
    iterator = trainer.make_iterator(dataset)
    begin = time.perf_counter()
    flops = product_flops(loop.get_concrete_function(iterator, tf.constant(1)).graph)
    trace_seconds = time.perf_counter() - begin
    first_seconds = _timed(lambda: loop(iterator, tf.constant(1)))
    peak = _Peak(policy)
    step_seconds, peak_flops = [], []
    for _ in range(rounds):
        peak_flops.append(peak.measure())
        step_seconds.append(_timed(lambda: loop(iterator, tf.constant(steps))) / steps)
        peak_flops.append(peak.measure())
    step, best = statistics.median(step_seconds), statistics.median(peak_flops)
    products = _product_share(loop, iterator)
    images = [
        config.train.global_batch_size / seconds
        for seconds in (step, max(step_seconds), min(step_seconds))
    ]
    outside = (
        "not known: the profiler saw no ops"
        if products is None
        else f"{1 - products:.0%} of the time in ops"
    )
    lines = {
        "parameters": f"{trainer.count_parameters() / 1e6:.2f} M",
        "setting": f"batch {config.train.global_batch_size}, {policy}, XLA {'on' if xla else 'off'}, "
        f"{strategy.num_replicas_in_sync} replica(s)",
        "compile": f"{trace_seconds:.1f} s to trace, {max(0, first_seconds - step):.1f} s more in the first step",
        "images/s": "{:.1f} (min {:.1f}, max {:.1f}; ".format(*images)
        + f"{rounds} rounds of {steps} steps)",
        "FLOPs of a step": f"{flops / 1e9:.1f} G (convolutions and matrix products, forward and backward)",
        "achieved": f"{flops / step / 1e9:.0f} GFLOP/s",
        "peak": f"{best / 1e9:.0f} GFLOP/s (min {min(peak_flops) / 1e9:.0f}, max {max(peak_flops) / 1e9:.0f}; "
        f"{PEAK_SIZE}x{PEAK_SIZE} matrix product in {peak.dtype.name})",
        "utilisation": f"{flops / step / best:.0%}",
        "outside products": outside,
        "checkpoint": _checkpoint_cost(state, lambda: loop(iterator, tf.constant(steps)), rounds),
    }
    return "\n".join(f"{name:18} {value}" for name, value in lines.items())


def _checkpoint_cost(state, some_steps, rounds) -> str:
    """What a save adds to the steps beside which it is written, on this machine's disk."""
    added, busy, copied = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(folder, state.trackables(), Retention(last=1))
        for _ in range(rounds + 1):  # the first one makes the copies
            begin, cpu = time.perf_counter(), time.process_time()
            checkpointer.save()
            copied.append(time.perf_counter() - begin)
            checkpointer.finish()
            busy.append(time.process_time() - cpu)
            written = time.perf_counter() - begin
            # Enough steps that the write is over before they are.
            turns = 1 + math.ceil(2 * written / _timed(some_steps))
            plain = sum(_timed(some_steps) for _ in range(turns))
            begin = time.perf_counter()
            checkpointer.save()
            for _ in range(turns):
                _timed(some_steps)
            checkpointer.finish()
            added.append(time.perf_counter() - begin - plain)
        (version,) = checkpoint_store.iter_intact(folder)
    low, middle, high = min(added[1:]), statistics.median(added[1:]), max(added[1:])
    return (
        f"{version.num_bytes / 1e6:.0f} MB: {statistics.median(copied[1:]):.2f} s to copy, "
        f"{statistics.median(busy[1:]):.2f} s of processor time in all; makes the steps beside it "
        f"{middle:.2f} s longer (min {low:.2f}, max {high:.2f}), {middle / 60:.1%} at one a minute"
    )


class _Peak:
    """The machine's rate of multiply-adds in a large matrix product."""

    def __init__(self, policy):
        self.dtype = tf.as_dtype(policy.removeprefix("mixed_"))
        factor = tf.cast(tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [0, 0]), self.dtype)

        @tf.function(autograph=False)
        def product():
            return tf.matmul(factor, factor)

        self.product = product
        self.product()

    def measure(self) -> float:
        return max(2 * PEAK_SIZE**3 / _timed(self.product) for _ in range(5))


def _timed(call) -> float:
    begin = time.perf_counter()
    tf.nest.map_structure(lambda value: value.numpy(), call())
    return time.perf_counter() - begin


def _product_share(loop, iterator) -> float | None:
    """Share of the time inside ops that is spent in convolutions and matrix products, by TensorFlow's
    own profiler; None where it recorded nothing of the kind (a device without op events)."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        _timed(lambda: loop(iterator, tf.constant(2)))
        tf.profiler.experimental.stop()
        seconds = op_seconds(folder)
    inside = sum(
        time for op, time in seconds.items() if any(name in op for name in ("Conv2D", "MatMul"))
    )
    return inside / sum(seconds.values()) if inside else None
