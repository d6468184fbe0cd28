"""Writes torch modules as ONNX graphs that refer to the weights in a safetensors file next to them.

The weights are stored as float16 if that does not change them, and the graph casts them to float32.
onnxruntime and torch compute with the same numbers, and no file exceeds protobuf's limit of 2 GB. Two
graphs can refer to the same weights. This needs the extra `clip`.
"""

import json
import pathlib
import struct
from collections.abc import Callable, Mapping, Sequence

import onnx
import torch
from onnxscript import ir
from safetensors.torch import save_file

_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


class _Part(torch.nn.Module):
    """The part of a model to export."""

    def __init__(self, model: torch.nn.Module, compute: Callable):
        super().__init__()
        self.model, self.compute = model, compute

    def forward(self, values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.compute(self.model, values)


def save_weights(model: torch.nn.Module, path: pathlib.Path) -> None:
    """Write the weights of a model to a safetensors file, as float16 if that does not change them."""
    weights = {name: _to_half(value).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path)


def write_graph(
    model: torch.nn.Module,
    compute: Callable,
    example: torch.Tensor,
    path: pathlib.Path,
    weights_name: str,
    *,
    input_name: str,
    output_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the graph of a computation.

    Args:
      model: the model. It is put into eval mode.
      compute: the computation, `compute(model, input)`. It returns a tensor or a tuple of tensors.
      example: an input with a batch of 2. The batch size of the graph is not fixed.
      path: the file to write.
      weights_name: a safetensors file in the same folder with the weights of the model.
      input_name, output_names: names for the graph.
      metadata: texts to store with the graph.
    """
    program = torch.onnx.export(
        _Part(model, compute).eval(),
        (example,),
        input_names=[input_name],
        output_names=list(output_names),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    _refer_to_weights(program.model.graph, path.parent / weights_name)
    graph = ir.to_proto(program.model)
    _drop_metadata(graph)
    onnx.helper.set_model_props(graph, dict(metadata or {}))
    onnx.save(graph, path)


def _to_half(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor as float16 if that does not change its values, otherwise unchanged."""
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if torch.equal(half.to(value.dtype), value) else value


def _refer_to_weights(graph: ir.Graph, weights: pathlib.Path) -> None:
    """Replace the weights of a graph with references to a safetensors file."""
    # Read the safetensors header: a JSON object with the position of each weight.
    with open(weights, "rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_size))
    casts = []
    for name, value in list(graph.initializers.items()):
        entry = header.get(name.removeprefix("model."))
        if entry is None:  # a mask or another constant, which is not a weight
            continue
        start, end = entry["data_offsets"]
        stored = ir.ExternalTensor(
            location=weights.name,
            offset=8 + header_size + start,
            length=end - start,
            dtype=_DTYPES[entry["dtype"]],
            shape=ir.Shape(entry["shape"]),
            name=name,
            base_dir=weights.parent,
        )
        if stored.dtype == value.dtype:
            value.const_value = stored
            continue
        # Store the weight under another name, and cast it to float32.
        stored.name = name + ".half"
        half = ir.Value(
            name=stored.name,
            shape=stored.shape,
            type=ir.TensorType(stored.dtype),
            const_value=stored,
        )
        graph.initializers.pop(name)
        graph.register_initializer(half)
        value.const_value = None
        target_type = ir.AttrInt64("to", ir.DataType.FLOAT)
        casts.append(ir.Node("", "Cast", [half], [target_type], outputs=[value]))
    graph.insert_before(graph[0], casts)


def _drop_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which contain paths of the machine that it ran on."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
