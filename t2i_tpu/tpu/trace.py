"""The real train loop and sampler, traced under TPUStrategy, and what a TPU would say to the graph."""

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
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.trainer import build_trainer

# What TPUStrategy puts around and between the replicas' ops; XLA for a CPU does not know them.
_REPLICATION = {
    "CrossReplicaSum",
    "TPUCompilationResult",
    "TPUReplicateMetadata",
    "TPUReplicatedInput",
    "TPUReplicatedOutput",
}
_HOST_CALLS = {
    *("EagerPyFunc", "PyFunc", "PyFuncStateless", "Print", "PrintV2", "NumpyFunction"),
    *("XlaSendToHost", "XlaRecvFromHost", "OutfeedEnqueue", "OutfeedEnqueueTuple"),
    *("InfeedDequeue", "InfeedDequeueTuple", "XlaHostCompute"),
}
# Of static shapes alone: the compiler has their value, so that its length is no shape of the program.
_CONSTANT = {"BroadcastGradientArgs"}


@dataclasses.dataclass(frozen=True)
class Trace:
    """What was found in a config's graphs for a TPU.

    Attributes:
      problems: one line each, naming the op and where it comes from; none: a TPU would take it.
      facts: numbers about the graphs, by name.
    """

    problems: list[str]
    facts: dict[str, object]


def trace(config: Config, manifest: Manifest, strategy: tf.distribute.TPUStrategy) -> Trace:
    """Traces the train loop and the sampler of a resolved config under a strategy.

    Nothing runs and no data is read: the input is zeros of the shapes that the manifest gives.

    Raises:
      UserError: the replicas don't divide the batch.
    """
    trainer = build_trainer(config, strategy, manifest)
    batch_size = trainer.batch_size
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda _: zeros(config, manifest, batch_size).repeat()
        )
    )
    steps = trainer.device_loop.get_concrete_function(iterator, tf.constant(1)).graph
    sampler = trainer.generator.trace()
    replicas = strategy.num_replicas_in_sync
    found = {
        "train loop": [
            *check(steps),
            *check_reductions(steps, replicas, _reduced(trainer.state)),
        ],
        "sampler": check(sampler),
    }
    facts = {
        "replicas": replicas,
        "hosts": strategy_lib.count_input_hosts(strategy),
        "per_replica_batch_size": batch_size,
        "dtype_policy": trainer.dtype_policy,
        "parameters": trainer.count_parameters(),
        "ops_of_a_step": sum(1 for _ in replicated(steps)),
        "ops_of_the_sampler": sum(1 for _ in replicated(sampler)),
    }
    return Trace(
        [f"{part}: {line}" for part, lines in found.items() for line in lines],
        facts,
    )


def _reduced(state: TrainState) -> list[tf.TensorShape]:
    """The shapes of what a step sums over the replicas: gradients, and the batch norms' statistics."""
    return [variable.shape for variable in (*state.weights, *state.denoiser.moving_statistics())]


def check(graph: tf.Graph) -> list[str]:
    """What a TPU would refuse of a graph's replicated part, or would leave the chip for."""
    problems, seen = [], False
    runnable = compilable_ops()
    for operation in replicated(graph):
        seen = True
        where = f"{operation.type} {operation.name!r}"
        if operation.type in _HOST_CALLS or _outside(operation):
            problems.append(
                f"{where} calls the host in every step; compute it on the device or before"
            )
        elif operation.type not in runnable:
            problems.append(f"{where} is an op that XLA cannot compile for a TPU")
        problems += [
            f"{where} has the shape {output.shape}, known only when it runs; TPUs need static shapes"
            for output in operation.outputs
            if output.dtype not in (tf.resource, tf.variant)
            and operation.type not in _CONSTANT
            and not output.shape.is_fully_defined()
        ]
        problems += [
            f"{where} computes in {output.dtype.name}, which a TPU has not"
            for output in operation.outputs
            if output.dtype in (tf.float64, tf.complex128, tf.string)
        ]
    # The outputs of one op, and an op of a function called twice, are told once.
    return (
        list(dict.fromkeys(problems))
        if seen
        else ["nothing in the graph is replicated over the TPU's cores"]
    )


def check_reductions(graph: tf.Graph, replicas: int, shapes: list[tf.TensorShape]) -> list[str]:
    """Whether what has to be summed is summed once, over all replicas, and nothing else is."""
    sums = [operation for operation in replicated(graph) if operation.type == "CrossReplicaSum"]
    problems = []
    for operation in sums:
        groups = tf.get_static_value(operation.inputs[1])
        if groups is None or sorted(np.ravel(groups)) != list(range(replicas)) or len(groups) != 1:
            problems.append(f"{operation.name!r} does not sum over all {replicas} replicas at once")
    found = collections.Counter(tuple(operation.outputs[0].shape) for operation in sums)
    wanted = collections.Counter(tuple(shape) for shape in shapes)
    for shape in sorted((found - wanted) | (wanted - found), key=str):
        problems.append(
            f"{found[shape]} sums over the replicas of tensors of shape {list(shape)}, "
            f"but {wanted[shape]} are needed"
        )
    return problems


def replicated(graph: tf.Graph, inside: bool = False) -> Iterator[tf.Operation]:
    """The ops that TPUStrategy gives to the cores, functions that they call included."""
    for operation in graph.get_operations():
        on_cores = inside or "_tpu_replicate" in operation.node_def.attr
        if on_cores and operation.type != "Placeholder":  # an argument of a function
            yield operation
        for attribute in operation.node_def.attr.values():
            if attribute.HasField("func"):
                yield from replicated(graph._get_function(attribute.func.name).graph, on_cores)


@functools.cache
def compilable_ops() -> frozenset[str]:
    """The ops that XLA knows; it knows the same for its own CPU as for a TPU, and these can be seen
    without one."""
    function = tf.function(lambda x: x + 1.0, jit_compile=True)
    # XLA registers its kernels when it first compiles, or, in the TPU build, fails to for the host.
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


def _outside(operation) -> bool:
    return "_xla_outside_compilation" in operation.node_def.attr


def zeros(config: Config, manifest: Manifest, batch_size: int) -> tf.data.Dataset:
    """One replica's batch, with nothing in it."""
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    size = config.data.image_size
    return tf.data.Dataset.from_tensors(
        {
            "image": tf.zeros([batch_size, size, size, manifest.channels], tf.uint8),
            "condition": spec.null(batch_size),
            "slot": tf.zeros([batch_size], tf.int32),
        }
    )
