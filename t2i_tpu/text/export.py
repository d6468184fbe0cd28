"""Exports an open_clip text tower to files that `OnnxEncoder` reads (needs the extra `clip`)."""

import pathlib

import open_clip
import torch

from t2i_tpu.text import onnx_graph, vocabulary
from t2i_tpu.text.last_states import encode_sequences, last_norm
from t2i_tpu.text.onnx_tower import GRAPH_NAME

_WEIGHTS_NAME = "text_tower.safetensors"


def export_encoder(
    model: torch.nn.Module, tokenizer: open_clip.SimpleTokenizer, folder: str
) -> None:
    """Write the graph, the weights and the vocabulary of a text tower.

    Args:
      model: an open_clip model without an image tower.
      tokenizer: its tokenizer.
      folder: the local folder to write into.
    """
    onnx_graph.save_weights(model, pathlib.Path(folder) / _WEIGHTS_NAME)
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
    outputs = ["pooled", "sequence"] if last_norm(model) else ["pooled"]
    onnx_graph.write_graph(
        model,
        encode_sequences if last_norm(model) else _encode_text,
        torch.zeros((2, context_length), dtype=torch.int64),
        pathlib.Path(folder) / GRAPH_NAME,
        weights_name,
        input_name="tokens",
        output_names=outputs,
    )


def _encode_text(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model.encode_text(tokens, normalize=True)
