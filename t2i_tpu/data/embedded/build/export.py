"""The text tower as ONNX, for those who have no torch (needs the extra `clip` and onnx itself)."""

import io
import json
import pathlib
import struct

import onnx
import torch
from onnx import TensorProto, helper

from t2i_tpu.data.embedded.build import clip_training

ONNX_NAME = "text_tower.onnx"


class _TextTower(torch.nn.Module):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(tokens, normalize=True)


def export_text_tower(folder: str) -> None:
    """Writes ONNX_NAME beside the weights: tokens int64 [N, context] -> float32 [N, D], length 1.

    The file holds the graph alone: its weights point into the safetensors file, where they lie as
    float16, and are cast to float32. So both runtimes compute with the same numbers.
    """
    model, tokenizer = clip_training.load(folder)
    del model.visual
    tokens = tokenizer(["a dog", "a red heart"])
    content = io.BytesIO()
    program = torch.onnx.export(
        _TextTower(model).eval(),
        (tokens,),
        input_names=["tokens"],
        output_names=["pooled"],
        dynamic_shapes={"tokens": {0: torch.export.Dim("batch")}},
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    program.save(content)
    graph_model = onnx.load_from_string(content.getvalue())
    _point_into_safetensors(graph_model.graph, pathlib.Path(folder) / clip_training.WEIGHTS_NAME)
    _drop_metadata(graph_model)
    onnx.save(graph_model, pathlib.Path(folder) / ONNX_NAME)


def _point_into_safetensors(graph: onnx.GraphProto, weights: pathlib.Path) -> None:
    with open(weights, "rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_size))
    casts = []
    for tensor in graph.initializer:
        entry = header.get(tensor.name.removeprefix("model."))
        if entry is None:
            continue
        name, half = tensor.name, tensor.name + ".half"
        start, end = entry["data_offsets"]
        tensor.Clear()
        tensor.name, tensor.data_type = half, TensorProto.FLOAT16
        tensor.dims.extend(entry["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": weights.name, "offset": 8 + header_size + start, "length": end - start}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


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
