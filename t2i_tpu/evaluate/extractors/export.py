"""Exports an open_clip image tower to a graph that `OnnxImages` reads (needs the extra `clip`)."""

import functools
import pathlib

import torch

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.image_graph import RESAMPLE
from t2i_tpu.evaluate.extractors.onnx_images import GRAPH_NAME
from t2i_tpu.text import onnx_graph


def export_graph(model: torch.nn.Module, folder: str, weights_name: str) -> None:
    """Write the graph of an image tower, GRAPH_NAME, next to its weights.

    The graph's input is images, uint8 [N, height, width, 3]. Its output is features, float32 [N, dim] with
    norm 1. It normalizes the pixels as open_clip's transform does.

    Args:
      model: an open_clip model.
      folder: the folder that contains the weights.
      weights_name: name of the safetensors file that contains them.
    """
    preprocess = model.visual.preprocess_cfg
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"cannot export an image tower for {width}x{height} pixels; it must be square"
        )
    onnx_graph.write_graph(
        model,
        functools.partial(_encode_images, mean=preprocess["mean"], std=preprocess["std"]),
        torch.zeros((2, height, width, 3), dtype=torch.uint8),
        pathlib.Path(folder) / GRAPH_NAME,
        weights_name,
        input_name="images",
        output_names=["features"],
        metadata={RESAMPLE: "BILINEAR" if preprocess["interpolation"] == "bilinear" else "BICUBIC"},
    )


def _encode_images(model: torch.nn.Module, images: torch.Tensor, *, mean, std) -> torch.Tensor:
    pixels = (images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return model.encode_image(pixels.permute(0, 3, 1, 2), normalize=True)
