"""Traces the real train loop and sampler under TPUStrategy, and finds ops that a TPU would not run."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.step.state import State
from t2i_tpu.training.trainer import build_trainer

# Ops that TPUStrategy adds around and between the replicas' ops. XLA for CPUs does not know them.
_REPLICATION = {
    "CrossReplicaSum",
    "TPUCompilationResult",
    "TPUReplicateMetadata",
    "TPUReplicatedInput",
    "TPUReplicatedOutput",
}

_HOST_CALLS = {
    "EagerPyFunc", "PyFunc", "PyFuncStateless", "Print", "PrintV2", "NumpyFunction",
    "XlaSendToHost", "XlaRecvFromHost", "OutfeedEnqueue", "OutfeedEnqueueTuple",
    "InfeedDequeue", "InfeedDequeueTuple", "XlaHostCompute",
}  # fmt: skip

# Ops whose values depend on static shapes alone. The compiler knows these values, so the length of
# the outputs is not a shape of the program.
_CONSTANT = {"BroadcastGradientArgs"}

_UNSUPPORTED_DTYPES = (tf.float64, tf.complex128, tf.string)


@dataclasses.dataclass(frozen=True)
class Trace:
    """The result of tracing a config for a TPU.

    Attributes:
      problems: one line each, with the name and origin of the op; empty if a TPU would run it.
      facts: numbers about the graphs, by name.
    """

    problems: list[str]
    facts: dict[str, object]


def trace_config(config: Config, manifest: Manifest, strategy: tf.distribute.TPUStrategy) -> Trace:
    """Trace the train loop and the sampler of a config under a strategy.

    Nothing runs and no data is read: the input is zeros of the shapes that the manifest gives.

    Args:
      config: a resolved config.
      manifest: the manifest of the data set.
      strategy: a real one, or one from `make_stand_in_strategy`.

    Raises:
      UserError: the replicas do not divide the batch.
    """
    # Trace the train loop and the sampler.
    engine = TensorFlowEngine(strategy)
    trainer = build_trainer(config, engine, manifest)

    def make_host_dataset(*_):
        # A data set must be created on the host that reads it.
        return make_zero_dataset(config, manifest, trainer.replica_batch_size).repeat()

    iterator = engine.make_iterator(config, make_host_dataset)
    loop = trainer.loop.function.get_concrete_function(iterator, tf.constant(1)).graph
    inputs = trainer.generator.make_example_inputs(trainer.generator.batch_size)
    sampler = trainer.generator.get_program().trace(*inputs)

    # Look for problems.
    replicas = strategy.num_replicas_in_sync
    reduced_shapes = _list_reduced_shapes(trainer.state)
    loop_problems = find_problems(loop) + find_reduction_problems(loop, replicas, reduced_shapes)
    problems = [f"train loop: {problem}" for problem in loop_problems]
    problems += [f"sampler: {problem}" for problem in find_problems(sampler)]

    facts = {
        "replicas": replicas,
        "hosts": engine.num_input_hosts,
        "per_replica_batch_size": trainer.replica_batch_size,
        "dtype_policy": trainer.dtype_policy,
        "parameters": trainer.count_parameters(),
        "ops_of_a_step": _count_replicated_ops(loop),
        "ops_of_the_sampler": _count_replicated_ops(sampler),
    }
    return Trace(problems, facts)


def find_problems(graph: tf.Graph) -> list[str]:
    """Return the ops in the replicated part of a graph that a TPU would reject or run on the host."""
    problems, is_replicated = [], False
    compilable = get_compilable_ops()
    for operation in iter_replicated_ops(graph):
        is_replicated = True
        problems += _find_op_problems(operation, compilable)
    if not is_replicated:
        return ["nothing in the graph is replicated over the TPU's cores"]
    # An op with several outputs, or in a function that is called twice, is reported once.
    return list(dict.fromkeys(problems))


def find_reduction_problems(
    graph: tf.Graph, replicas: int, shapes: list[tf.TensorShape]
) -> list[str]:
    """Return the ways in which a graph's sums over the replicas differ from those that are needed.

    Args:
      graph: the graph of the train loop.
      replicas: the number of replicas; each sum must be over all of them.
      shapes: the shapes of the tensors that must be summed, each once.
    """
    sums = [operation for operation in iter_replicated_ops(graph) if _is_replica_sum(operation)]
    problems = []
    for operation in sums:
        groups = tf.get_static_value(operation.inputs[1])
        if groups is None or sorted(np.ravel(groups)) != list(range(replicas)) or len(groups) != 1:
            problems.append(f"{operation.name!r} does not sum over all {replicas} replicas at once")
    actual = collections.Counter(tuple(operation.outputs[0].shape) for operation in sums)
    needed = collections.Counter(tuple(shape) for shape in shapes)
    for shape in sorted((actual - needed) | (needed - actual), key=str):
        problems.append(
            f"the number of sums over the replicas of tensors of shape {list(shape)} is "
            f"{actual[shape]}, but it must be {needed[shape]}"
        )
    return problems


def iter_replicated_ops(graph: tf.Graph, is_inside: bool = False) -> Iterator[tf.Operation]:
    """Yield the ops that TPUStrategy places on the cores, including those in functions that they call.

    Args:
      graph: the graph of a function.
      is_inside: whether the function is called from an op on the cores.
    """
    for operation in graph.get_operations():
        is_on_cores = is_inside or "_tpu_replicate" in operation.node_def.attr
        # A placeholder is the argument of a function.
        if is_on_cores and operation.type != "Placeholder":
            yield operation
        for attribute in operation.node_def.attr.values():
            if attribute.HasField("func"):
                function = graph._get_function(attribute.func.name)
                yield from iter_replicated_ops(function.graph, is_on_cores)


@functools.cache
def get_compilable_ops() -> frozenset[str]:
    """Return the types of the ops that XLA can compile.

    XLA knows the same ops for its own CPU as for a TPU, and those can be listed without one.
    """
    function = tf.function(lambda x: x + 1.0, jit_compile=True)
    # XLA registers its kernels when it first compiles for the host. The TPU build fails to do so,
    # but registers them too.
    with contextlib.suppress(ValueError):
        function.experimental_get_compiler_ir(tf.zeros([1]))(
            stage="hlo_serialized", platform_name="CPU"
        )
    known = {
        kernel.op
        for kernel in kernels.get_all_registered_kernels().kernel
        if kernel.device_type == "XLA_CPU_JIT"
    }
    return frozenset(known | _REPLICATION)


def make_zero_dataset(config: Config, manifest: Manifest, batch_size: int) -> tf.data.Dataset:
    """Return a data set with a single batch for one replica, all zeros."""
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    size = config.data.image_size
    batch = tf.data.Dataset.from_tensors(
        {
            "image": tf.zeros([batch_size, size, size, manifest.channels], tf.uint8),
            "condition": spec.null(batch_size),
            "slot": tf.zeros([batch_size], tf.int32),
        }
    )
    return disable_autotuning(batch)


def _find_op_problems(operation: tf.Operation, compilable: frozenset[str]) -> list[str]:
    label = f"{operation.type} {operation.name!r}"
    problems = []
    if operation.type in _HOST_CALLS or _runs_outside(operation):
        problems.append(
            f"{label} calls the host in every step; compute it on the device or before the loop"
        )
    elif operation.type not in compilable:
        problems.append(f"{label} is an op that XLA cannot compile for a TPU")
    for output in operation.outputs:
        is_array = output.dtype not in (tf.resource, tf.variant)
        if is_array and operation.type not in _CONSTANT and not output.shape.is_fully_defined():
            problems.append(
                f"{label} has the shape {output.shape}, which is known only at run time; "
                "TPUs need static shapes"
            )
        if output.dtype in _UNSUPPORTED_DTYPES:
            problems.append(f"{label} computes in {output.dtype.name}, which TPUs do not support")
    return problems


def _list_reduced_shapes(state: State) -> list[tf.TensorShape]:
    """Return the shapes of the gradients and batch statistics, which a step sums over replicas."""
    denoiser = state.denoiser
    reduced = (*denoiser.trainable_variables, *denoiser.moving_statistics())
    return [variable.shape for variable in reduced]


def _count_replicated_ops(graph: tf.Graph) -> int:
    return sum(1 for _ in iter_replicated_ops(graph))


def _is_replica_sum(operation: tf.Operation) -> bool:
    return operation.type == "CrossReplicaSum"


def _runs_outside(operation: tf.Operation) -> bool:
    """Return whether an op is marked to run on the host."""
    return "_xla_outside_compilation" in operation.node_def.attr
