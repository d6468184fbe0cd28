"""Exports an open_clip text tower to files that `OnnxEncoder` reads (needs the extra `clip`).

text_tower.onnx holds only the graph. Its weights refer to a safetensors file next to it, which
stores them as float16 if that loses nothing; the graph casts them to float32. Both runtimes thus
compute with the same numbers, and no file exceeds protobuf's limit of 2 GB.
"""

import json
import pathlib
import struct

import onnx
import open_clip
import torch
from onnxscript import ir
from safetensors.torch import save_file

from t2i_tpu.text import vocabulary
from t2i_tpu.text.last_states import encode_sequences, last_norm
from t2i_tpu.text.onnx_tower import GRAPH_NAME

_WEIGHTS_NAME = "text_tower.safetensors"
_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


class _TextTower(torch.nn.Module):
    """The part of a model that is exported: tokens -> embeddings and, if it has them, states."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.outputs = ["pooled", "sequence"] if last_norm(model) else ["pooled"]

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if "sequence" in self.outputs:
            return encode_sequences(self.model, tokens)
        return (self.model.encode_text(tokens, normalize=True),)


def export_encoder(
    model: torch.nn.Module, tokenizer: open_clip.SimpleTokenizer, folder: str
) -> None:
    """Write the graph, weights and vocabulary of a model without an image tower into a folder."""
    weights = {name: _to_half(value).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, pathlib.Path(folder) / _WEIGHTS_NAME)
    export_graph(model, tokenizer.context_length, folder, _WEIGHTS_NAME)
    fast = vocabulary.fast_tokenizer(list(tokenizer.bpe_ranks))
    fast.save(str(pathlib.Path(folder) / vocabulary.TOKENIZER_NAME), pretty=False)


def export_graph(
    model: torch.nn.Module, context_length: int, folder: str, weights_name: str
) -> None:
    """Write GRAPH_NAME next to the model's weights.

    The graph takes tokens, int64 [N, context_length], and returns pooled, float32 [N, dim] of length
    1, and if the model has a last norm also sequence, float32 [N, context_length, width].

    Args:
      model: without an image tower.
      context_length: of the model.
      folder: where the weights are.
      weights_name: of the safetensors file with the model's weights.
    """
    tower = _TextTower(model).eval()
    program = torch.onnx.export(
        tower,
        (torch.zeros((2, context_length), dtype=torch.int64),),
        input_names=["tokens"],
        output_names=tower.outputs,
        dynamic_shapes={"tokens": {0: torch.export.Dim("batch")}},
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    _refer_to_weights(program.model.graph, pathlib.Path(folder) / weights_name)
    graph = ir.to_proto(program.model)
    _drop_metadata(graph)
    onnx.save(graph, pathlib.Path(folder) / GRAPH_NAME)


def _to_half(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor as float16 if that does not change it, otherwise as it is."""
    half = value.half()
    return half if torch.equal(half.to(value.dtype), value) else value


def _refer_to_weights(graph: ir.Graph, weights: pathlib.Path) -> None:
    """Replace the weights of a graph by references to a safetensors file."""
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
    """Remove the exporter's stack traces, which have paths of the machine that it ran on."""
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
