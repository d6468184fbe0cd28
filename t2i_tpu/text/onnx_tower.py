"""Encodes prompts with a text tower in ONNX and a `tokenizers` vocabulary, without torch."""

import html
import os
import re
import shutil
import unicodedata

import numpy as np
import onnxruntime
import tokenizers

from t2i_tpu.storage import files
from t2i_tpu.text.encoder import Encoder
from t2i_tpu.text.vocabulary import TOKENIZER_NAME

GRAPH_NAME = "text_tower.onnx"
EMBEDDED_CLIP = os.path.join(os.path.dirname(os.path.dirname(__file__)), "embedded", "clip")
_EMBEDDED_WEIGHTS = "open_clip_model.safetensors"
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_WIDE_OR_LIGATURE = re.compile("[\u0132\u0133\ufb00-\ufb06\u3000\uff01-\uffef]")


class OnnxEncoder(Encoder):
    """A text tower in ONNX, from a local folder with GRAPH_NAME, its weights and a vocabulary.

    Args:
      folder: a folder that `TextEncoder.export` wrote. Only the constructor reads it.
      encoder_id, weights_sha256: the attributes of the encoder from which it was exported.
    """

    def __init__(self, folder: str, encoder_id: str, weights_sha256: str):
        self.encoder_id, self.weights_sha256 = encoder_id, weights_sha256
        self._tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, TOKENIZER_NAME))
        self._tower = onnxruntime.InferenceSession(
            os.path.join(folder, GRAPH_NAME), providers=["CPUExecutionProvider"]
        )
        self.context_length = self._tower.get_inputs()[0].shape[1]
        widths = {output.name: output.shape[-1] for output in self._tower.get_outputs()}
        self.dim, self.sequence_width = widths["pooled"], widths.get("sequence")
        self.vocab_size = self._tokenizer.get_vocab_size()

    def _get_token_ids(self, prompts: list[str]) -> list[list[int]]:
        cleaned = [_clean(prompt) for prompt in prompts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)]

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        (embeddings,) = self._tower.run(["pooled"], {"tokens": tokens})
        return embeddings

    def _embed_sequences(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self._tower.run(["pooled", "sequence"], {"tokens": tokens}))


class EmbeddedEncoder(OnnxEncoder):
    """The text tower of the small CLIP that ships with the package.

    `OpenClipEncoder("local-dir:" + EMBEDDED_CLIP)` is the same tower through open_clip.
    """

    def __init__(self, folder: str = EMBEDDED_CLIP):
        weights = os.path.join(folder, _EMBEDDED_WEIGHTS)
        super().__init__(folder, "embedded", files.measure(weights)[1])
        self._folder = folder

    def export(self, folder: str) -> None:
        for name in (GRAPH_NAME, TOKENIZER_NAME, _EMBEDDED_WEIGHTS):
            shutil.copyfile(os.path.join(self._folder, name), os.path.join(folder, name))


def _clean(text: str) -> str:
    """Clean a text as open_clip does before splitting it into words.

    open_clip uses html.unescape and ftfy.fix_text. Unlike ftfy, this function does not fix text that
    was decoded with the wrong encoding ("Ã©" for "é").
    """
    text = html.unescape(html.unescape(text))
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    text = _WIDE_OR_LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = re.sub("[\u02bc\u2018-\u201b]", "'", re.sub("[\u201c-\u201f]", '"', text))
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    return " ".join(text.split()).lower()
