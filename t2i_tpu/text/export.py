"""Exports an open_clip text tower to files that `OnnxEncoder` reads (needs the extra `clip`).

text_tower.onnx contains only the graph and refers to the weights in a safetensors file next to it. The
weights are stored as float16 if that does not change them, and the graph casts them to float32. So
onnxruntime and torch compute with the same numbers, and no file exceeds protobuf's limit of 2 GB.
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
    """The part of a model to export: it turns tokens into embeddings and, if possible, states."""

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
    """Write the graph, the weights and the vocabulary of a text tower.

    Args:
      model: an open_clip model without an image tower.
      tokenizer: its tokenizer.
      folder: the local folder to write into.
    """
    weights = {name: _to_half(value).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, pathlib.Path(folder) / _WEIGHTS_NAME)
    export_graph(model, tokenizer.context_length, folder, _WEIGHTS_NAME)
    fast = vocabulary.fast_tokenizer(list(tokenizer.bpe_ranks))
    fast.save(str(pathlib.Path(folder) / vocabulary.TOKENIZER_NAME), pretty=False)


def export_graph(
    model: torch.nn.Module, context_length: int, folder: str, weights_name: str
) -> None:
    """Write the graph of a text tower, GRAPH_NAME, next to its weights.

    The graph's input is tokens, int64 [N, context_length]. Its outputs are pooled, float32 [N, dim] with
    norm 1, and, if the model has a last norm, sequence, float32 [N, context_length, width].

    Args:
      model: an open_clip model without an image tower.
      context_length: context length of the model.
      folder: the folder that contains the weights.
      weights_name: name of the safetensors file that contains them.
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
    """Return a tensor as float16 if that does not change its values, otherwise unchanged."""
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
