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
    total = 0
    outputs = {id(output) for output in graph.outputs}
    for operation in graph.get_operations():
        # A gradient that nobody asked for, as of the first layer's input, is pruned before it runs.
        if any(tensor.consumers() or id(tensor) in outputs for tensor in operation.outputs):
            total += _flops(operation)
        for name in _called(operation):
            inner = graph._get_function(name) if hasattr(graph, "_get_function") else None
            if inner is not None:
                total += product_flops(inner.graph)
    return total


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
