"""The cost of a traced TensorFlow function: FLOPs and bytes of its products, and time by kind of op."""

import math
import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# Ops that only run other ops. The time is counted for those.
_CALLS = {
    "While",
    "StatelessWhile",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "Run",
    "Record",
    "Process",
}


def count_product_flops(graph: tf.Graph) -> int:
    """Return the FLOPs of every convolution and matrix product in a FuncGraph.

    A multiply-add counts as two. Functions that the graph calls are included, and loop bodies count
    once. The ops must have static shapes.
    """
    return sum(_count_flops(operation) for operation in _iter_operations(graph))


def count_product_bytes(graph: tf.Graph) -> int:
    """Return the bytes of the operands and results of the products that `count_product_flops` counts.

    Even if everything else is fused, the device must move these bytes.
    """
    return sum(
        _count_bytes(tensor)
        for operation in _iter_operations(graph)
        if _count_flops(operation)
        for tensor in (*operation.inputs, *operation.outputs)
    )


def count_activation_bytes(graph: tf.Graph, batch_size: int) -> int:
    """Return the bytes of the activations that the products of the backward pass read.

    Each activation counts once. Even if everything else is fused, training must keep them, unless it
    computes some of them again.

    Args:
      graph: a FuncGraph with a forward and a backward pass.
      batch_size: size of the first dimension, by which activations differ from weights.
    """
    bytes_by_tensor = {}
    for operation in _iter_operations(graph):
        if _is_backward(operation) and _count_flops(operation):
            for tensor in map(_undo_reshapes, operation.inputs):
                has_batch = tensor.shape.rank and tensor.shape[0] == batch_size
                if has_batch and not _is_backward(tensor.op):
                    bytes_by_tensor[id(tensor)] = _count_bytes(tensor)
    return sum(bytes_by_tensor.values())


def read_op_seconds(folder: str) -> dict[str, float]:
    """Return the seconds by kind of op in a trace that `tf.profiler` wrote into a folder."""
    seconds: dict[str, float] = {}
    for path in pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb"):
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        for plane in space.planes:
            names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
            for event in (event for line in plane.lines for event in line.events):
                _, colon, op = names[event.metadata_id].rpartition(":")
                if colon and op.isidentifier() and op not in _CALLS:
                    seconds[op] = seconds.get(op, 0.0) + event.duration_ps / 1e12
    return seconds


def _iter_operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yield the ops that a FuncGraph and the functions that it calls run, loop bodies once."""
    outputs = {id(output) for output in graph.outputs}
    for operation in graph.get_operations():
        # TensorFlow prunes an op whose result is not used, such as the gradient of an image.
        if any(tensor.consumers() or id(tensor) in outputs for tensor in operation.outputs):
            yield operation
        for name in _iter_called_functions(operation):
            inner = graph._get_function(name) if hasattr(graph, "_get_function") else None
            if inner is not None:
                yield from _iter_operations(inner.graph)


def _iter_called_functions(operation: tf.Operation) -> Iterator[str]:
    for attribute in operation.node_def.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name


def _is_backward(operation: tf.Operation) -> bool:
    return operation.name.startswith("gradient_tape/")


def _undo_reshapes(tensor: tf.Tensor) -> tf.Tensor:
    """Return the original of a reshaped tensor, or the tensor itself."""
    while tensor.op.type in ("Reshape", "Identity", "ExpandDims", "Squeeze"):
        tensor = tensor.op.inputs[0]
    return tensor


def _count_bytes(tensor: tf.Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.size if tensor.shape.is_fully_defined() else 0


def _count_flops(operation: tf.Operation) -> int:
    """Return the FLOPs of a convolution, a matrix product or a gradient of them, and 0 for others."""
    kind = operation.type
    if kind == "Conv2D":
        return _count_convolution_flops(operation.inputs[1].shape, operation.outputs[0].shape)
    # Its inputs are the image's size, the kernel and the gradient.
    if kind == "Conv2DBackpropInput":
        return _count_convolution_flops(operation.inputs[1].shape, operation.inputs[2].shape)
    # Its inputs are the image, the kernel's size and the gradient.
    if kind == "Conv2DBackpropFilter":
        return _count_convolution_flops(operation.outputs[0].shape, operation.inputs[2].shape)
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        inner = operation.inputs[0].shape[-2 if transposed else -1]
        return 2 * math.prod(operation.outputs[0].shape) * inner
    return 0


def _count_convolution_flops(kernel: tf.TensorShape, output: tf.TensorShape) -> int:
    """Return 2 * kernel height * width * input channels for every output value."""
    return 2 * math.prod(kernel[:3]) * math.prod(output)
