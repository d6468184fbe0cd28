"""What a traced TensorFlow function costs: FLOPs of its matrix products, and time by kind of op."""

import math

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# Ops that run other ops: their time is counted there.
_CALLS = {
    "While",
    "StatelessWhile",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "Run",
    "Record",
    "Process",
}


def product_flops(graph: tf.Graph) -> int:
    """Multiply-adds, counted twice, of every convolution and matrix product in a FuncGraph and in the
    functions that it calls (loop bodies once), by the ops' static shapes."""
    return sum(_flops(operation) for operation in _operations(graph))


def product_bytes(graph: tf.Graph) -> int:
    """Bytes of the operands and results of the same: what has to move if all else is fused."""
    return sum(
        _bytes(tensor)
        for operation in _operations(graph)
        if _flops(operation)
        for tensor in (*operation.inputs, *operation.outputs)
    )


def activation_bytes(graph: tf.Graph, batch_size: int) -> int:
    """Bytes of the forward pass's values that the backward pass's products read, each once: what
    training has to hold when all else is fused, unless it computes some of them again."""
    held = {}
    for operation in _operations(graph):
        if _is_backward(operation) and _flops(operation):
            for tensor in map(_viewed, operation.inputs):
                if (
                    not _is_backward(tensor.op)
                    and tensor.shape.rank
                    and tensor.shape[0] == batch_size
                ):
                    held[id(tensor)] = _bytes(tensor)
    return sum(held.values())


def _is_backward(operation):
    return operation.name.startswith("gradient_tape/")


def _viewed(tensor):
    """The tensor that this one is another shape of."""
    while tensor.op.type in ("Reshape", "Identity", "ExpandDims", "Squeeze"):
        tensor = tensor.op.inputs[0]
    return tensor


def _bytes(tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.size if tensor.shape.is_fully_defined() else 0


def _operations(graph):
    """What runs of a FuncGraph and of the functions that it calls, loop bodies once."""
    outputs = {id(output) for output in graph.outputs}
    for operation in graph.get_operations():
        # A gradient that nobody asked for, as of the first layer's input, is pruned before it runs.
        if any(tensor.consumers() or id(tensor) in outputs for tensor in operation.outputs):
            yield operation
        for name in _called(operation):
            inner = graph._get_function(name) if hasattr(graph, "_get_function") else None
            if inner is not None:
                yield from _operations(inner.graph)


def _called(operation):
    for attribute in operation.node_def.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name


def _flops(operation) -> int:
    kind = operation.type
    if kind == "Conv2D":
        return _convolution(operation.inputs[1].shape, operation.outputs[0].shape)
    if kind == "Conv2DBackpropInput":  # inputs: sizes, filter, gradient
        return _convolution(operation.inputs[1].shape, operation.inputs[2].shape)
    if kind == "Conv2DBackpropFilter":  # inputs: image, sizes, gradient
        return _convolution(operation.outputs[0].shape, operation.inputs[2].shape)
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        inner = operation.inputs[0].shape[-2 if transposed else -1]
        return 2 * math.prod(operation.outputs[0].shape) * inner
    return 0


def _convolution(kernel, output) -> int:
    """2 * kernel height * width * input channels for every output value."""
    return 2 * math.prod(kernel[:3]) * math.prod(output)


def op_seconds(folder: str) -> dict[str, float]:
    """Seconds per kind of op in a trace that `tf.profiler` wrote into a folder."""
    seconds: dict[str, float] = {}
    for path in tf.io.gfile.glob(f"{folder}/plugins/profile/*/*.xplane.pb"):
        space = xplane_pb2.XSpace()
        with tf.io.gfile.GFile(path, "rb") as file:
            space.ParseFromString(file.read())
        for plane in space.planes:
            names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
            for event in (event for line in plane.lines for event in line.events):
                _, colon, op = names[event.metadata_id].rpartition(":")
                if colon and op.isidentifier() and op not in _CALLS:
                    seconds[op] = seconds.get(op, 0.0) + event.duration_ps / 1e12
    return seconds
