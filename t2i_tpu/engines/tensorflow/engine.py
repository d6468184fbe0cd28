"""The engine that computes with TensorFlow, on the devices of a tf.distribute strategy."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from t2i_tpu.config import Config, TrainConfig
from t2i_tpu.engines.engine import Engine, describe_lost_process
from t2i_tpu.engines.tensorflow.iterator import make_distributed_iterator
from t2i_tpu.engines.tensorflow.train_loop import TensorFlowTrainLoop, densify
from t2i_tpu.errors import UserError
from t2i_tpu.step.state import State


class TensorFlowEngine(Engine):
    """Computes with TensorFlow.

    Attributes:
      strategy: the strategy whose replicas compute.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        self.process, self.num_processes = _get_process(strategy)
        self.num_input_hosts = self.num_processes
        self.hardware = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
        if isinstance(strategy, tf.distribute.TPUStrategy):  # one process runs an entire pod
            self.num_input_hosts, self.hardware = strategy.extended.num_hosts, "tpu"

    def check(self, config):
        super().check(config)
        check_unsharded(config)

    def scope(self):
        return self.strategy.scope()

    def place(self, state: State, config: Config) -> None:
        """Do nothing: `scope` has created the variables on the devices."""

    def assign(self, variable, value):
        variable.value.assign(tf.cast(value, variable.value.dtype))

    def read(self, variable):
        return variable.value.numpy()

    def make_train_loop(
        self, config: Config, state: State, jit_compile: bool
    ) -> TensorFlowTrainLoop:
        return TensorFlowTrainLoop(self.strategy, config, state, jit_compile)

    def make_iterator(self, config, read_batches):
        def read(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return read_batches(context.input_pipeline_id, context.num_input_pipelines)

        return make_distributed_iterator(self.strategy, read)

    def get_read_batch_size(self, global_batch_size: int) -> int:
        return self.get_replica_batch_size(global_batch_size)

    def compile_inference(self, function, weights, jit_compile):
        @tf.function(jit_compile=jit_compile, autograph=False)
        def infer_on_replica(inputs, shared):
            with keras.StatelessScope([(old, new.value) for old, new in weights]):
                return function(inputs, shared)

        is_fixed = self.compiles_per_batch_size(jit_compile)
        return TensorFlowInference(self.strategy, infer_on_replica, is_fixed)

    def trace_once(self, function, jit_compile):
        if self.compiles_per_batch_size(jit_compile):
            return function
        # Without inlining, the graph of the function is also optimized once.
        attributes = {"_noinline": True}
        return _trace_for_any_size(
            tf.function(function, autograph=False, experimental_attributes=attributes)
        )

    def compiles_per_batch_size(self, jit_compile: bool) -> bool:
        return jit_compile or self.hardware == "tpu"

    def differentiate(self, function, arguments):
        tensors = [tf.convert_to_tensor(argument) for argument in arguments]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            scalar, others = function(tensors)
        gradients = tape.gradient(
            scalar, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        gradients = [densify(*pair).numpy() for pair in zip(gradients, tensors, strict=True)]
        return [other.numpy() for other in others], gradients

    def sum_over_processes(self, values: Sequence[int]) -> list[int]:
        if self.num_processes == 1:
            return list(values)
        replicas_per_process = self.num_replicas // self.num_processes

        def make_value(context):
            # Only the first replica of a process contributes its values.
            is_first = context.replica_id_in_sync_group % replicas_per_process == 0
            return tf.constant(values if is_first else [0] * len(values), tf.int32)

        parts = self.strategy.experimental_distribute_values_from_function(make_value)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None).numpy().tolist()

    @contextlib.contextmanager
    def translate_lost_processes(self) -> Iterator[None]:
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            # Storage raises the same classes of errors, but only collectives communicate with other hosts.
            # TensorFlow writes "Collective" with and without a capital letter.
            if "collective" not in error.message.lower():
                raise
            # The message may also name this host, or a third one that only passed the error on.
            tasks = set(re.findall(r"/job:worker/replica:\d+/task:(\d+)", error.message))
            tasks.discard(str(self.process))
            culprit = f"worker {tasks.pop()}" if len(tasks) == 1 else "another worker"
            raise describe_lost_process(self.process, culprit) from error

    def should_use_xla(self, train: TrainConfig) -> bool:
        """Return whether XLA should compile a replica's forward and backward pass, and the sampler.

        On GPUs, XLA fuses operations that are limited by memory bandwidth. On CPUs, oneDNN's
        convolutions are twice as fast as XLA's. On TPUs, the entire step is compiled anyway, and
        TensorFlow's TPU build cannot compile for the host (keras #19448).
        """
        if self.hardware == "tpu":
            return False
        return self.hardware == "gpu" if train.jit_compile == "auto" else train.jit_compile == "on"


def check_unsharded(config: Config) -> None:
    """Raise UserError if a config splits the state over the devices, which TensorFlow cannot do."""
    if config.train.shard_state:
        raise UserError(
            "config.train.shard_state works on JAX only; use --engine=jax or "
            "--config.train.shard_state=False"
        )


class TensorFlowInference:
    """Calls a function on all replicas; see `Engine.compile_inference`.

    Attributes:
      infer_on_replica: the tf.function that each replica calls.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, infer_on_replica: Callable, is_fixed: bool
    ):
        """Create a function without tracing it.

        Args:
          strategy: the strategy.
          infer_on_replica: a tf.function of two trees.
          is_fixed: whether to trace it for each batch size, and not once for all of them.
        """
        self.strategy, self.infer_on_replica = strategy, infer_on_replica

        call_replica = infer_on_replica if is_fixed else _trace_for_any_size(infer_on_replica)

        # Compiling the strategy's call too avoids running Python for every batch and replica.
        @tf.function(autograph=False, reduce_retracing=not is_fixed)
        def infer_on_all(inputs, shared):
            return strategy.run(call_replica, (inputs, shared))

        self._infer = infer_on_all

    def __call__(self, inputs, shared=()):
        result = self._infer(*self._place(inputs, shared))
        return tf.nest.map_structure(
            lambda part: self.strategy.gather(part, axis=0).numpy(), result
        )

    def trace(self, inputs, shared=()) -> tf.Graph:
        """Return the graph of a call, without running it."""
        return self._infer.get_concrete_function(*self._place(inputs, shared)).graph

    def _place(self, inputs, shared):
        """Give each replica an equal share of the inputs."""

        def split(array):
            share = len(array) // self.strategy.num_replicas_in_sync

            def take_share(context):
                start = context.replica_id_in_sync_group * share
                return tf.constant(array[start : start + share])

            return self.strategy.experimental_distribute_values_from_function(take_share)

        return tf.nest.map_structure(split, inputs), tf.nest.map_structure(tf.constant, shared)


def _trace_for_any_size(function: Callable) -> Callable:
    """Return a tf.function that is traced once for all sizes of its arguments' first dimension."""

    def leave_size_open(tensor: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    def call(*arguments):
        types = tf.nest.map_structure(leave_size_open, arguments)
        return function.get_concrete_function(*types)(*arguments)

    return call


def _get_process(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return the index of this process in the run and the number of processes."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = (len(jobs.get(kind, ())) for kind in ("chief", "worker"))
    first = 0 if resolver.task_type == "chief" else chiefs
    return first + resolver.task_id, chiefs + workers
