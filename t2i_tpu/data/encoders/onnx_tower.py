"""A text tower as ONNX with a vocabulary of `tokenizers`: encodes prompts without torch."""

import functools
import html
import os
import re
import unicodedata

import numpy as np
import onnxruntime
import tokenizers

from t2i_tpu.data import files
from t2i_tpu.data.encoders.encoder import Encoder

EMBEDDED_CLIP = os.path.join(os.path.dirname(os.path.dirname(__file__)), "embedded", "clip")


class EmbeddedEncoder(Encoder):
    """The text tower of the small CLIP that ships with the package, through onnxruntime.

    `OpenClipEncoder("local-dir:" + EMBEDDED_CLIP)` is the same tower through open_clip.
    """

    encoder_id = "embedded"

    def __init__(self, folder: str = EMBEDDED_CLIP):
        self._weights = os.path.join(folder, "open_clip_model.safetensors")
        self._tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self._tower = onnxruntime.InferenceSession(
            os.path.join(folder, "text_tower.onnx"), providers=["CPUExecutionProvider"]
        )
        self.context_length = self._tower.get_inputs()[0].shape[1]
        self.dim = self._tower.get_outputs()[0].shape[1]
        self.vocab_size = self._tokenizer.get_vocab_size()

    @functools.cached_property
    def weights_sha256(self) -> str:
        return files.measured(self._weights)[1]

    def _token_ids(self, prompts: list[str]) -> list[list[int]]:
        cleaned = [_clean(prompt) for prompt in prompts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)]

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        (embeddings,) = self._tower.run(None, {"tokens": tokens})
        return embeddings


_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
_WIDE_OR_LIGATURE = re.compile("[\u0132\u0133\ufb00-\ufb06\u3000\uff01-\uffef]")


def _clean(text: str) -> str:
    """What open_clip does to a text before it splits it into words, by html.unescape and by
    ftfy.fix_text; but wrongly decoded text ("Ã©" for "é") is left as it is, which ftfy mends."""
    text = html.unescape(html.unescape(text))
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    text = _WIDE_OR_LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = re.sub("[\u02bc\u2018-\u201b]", "'", re.sub("[\u201c-\u201f]", '"', text))
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    return " ".join(text.split()).lower()
