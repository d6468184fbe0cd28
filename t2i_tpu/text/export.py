"""An open_clip text tower -> files that `OnnxEncoder` reads (needs the extra `clip`).

text_tower.onnx holds the graph alone: its weights point into a safetensors file beside it, where
they lie as float16 if that loses nothing, and are cast to float32. So both runtimes compute with
the same numbers, and no file is over protobuf's limit of 2 GB.
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
from t2i_tpu.text.onnx_tower import GRAPH_NAME
from t2i_tpu.text.open_clip_tower import encode_sequences, last_norm

_WEIGHTS_NAME = "text_tower.safetensors"
_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


class _TextTower(torch.nn.Module):
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
    """Writes graph, weights and vocabulary of a model without its image tower into `folder`."""
    weights = {name: _halved(value).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, pathlib.Path(folder) / _WEIGHTS_NAME)
    export_graph(model, tokenizer.context_length, folder, _WEIGHTS_NAME)
    fast = vocabulary.fast_tokenizer(list(tokenizer.bpe_ranks))
    fast.save(str(pathlib.Path(folder) / vocabulary.TOKENIZER_NAME), pretty=False)


def export_graph(
    model: torch.nn.Module, context_length: int, folder: str, weights_name: str
) -> None:
    """Writes GRAPH_NAME beside the model's weights: tokens int64 [N, context] -> pooled float32
    [N, dim], of length 1, and, where the model has it, sequence float32 [N, context, width]."""
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
    _point_into(program.model.graph, pathlib.Path(folder) / weights_name)
    graph = ir.to_proto(program.model)
    _drop_metadata(graph)
    onnx.save(graph, pathlib.Path(folder) / GRAPH_NAME)


def _halved(value: torch.Tensor) -> torch.Tensor:
    half = value.half()
    return half if torch.equal(half.to(value.dtype), value) else value


def _point_into(graph: ir.Graph, weights: pathlib.Path) -> None:
    """Replaces the weights of a graph by places in a safetensors file."""
    with open(weights, "rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_size))
    casts = []
    for name, value in list(graph.initializers.items()):
        entry = header.get(name.removeprefix("model."))
        if entry is None:  # not of the weights: a mask, a constant
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
        to = ir.AttrInt64("to", ir.DataType.FLOAT)
        casts.append(ir.Node("", "Cast", [half], [to], outputs=[value]))
    graph.insert_before(graph[0], casts)


def _drop_metadata(model: onnx.ModelProto) -> None:
    """The exporter notes stack traces, with the paths of the machine that it ran on."""
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
