"""Text -> embedding. The embedded encoder needs no torch; open_clip's models need extra `clip`."""

import functools
import hashlib
import html
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime
import tokenizers

from t2i_tpu.data import files
from t2i_tpu.errors import UserError

EMBEDDED_CLIP = os.path.join(os.path.dirname(__file__), "embedded", "clip")
_BATCH_SIZE = 256
# A tokenizer is known by what it does; open_clip's several kinds have nothing else in common.
_SPECIMEN = (
    "The quick brown fox jumps over 12 lazy dogs, 3456789 times; a photograph of an astronaut's "
    'strawberry-coloured umbrella & grinning face with "big eyes" (watercolour, 1890s), #sunset '
    "naïve façade 東京 ❤ internationalization"
)


class TextEncoder(Protocol):
    """Prompts -> embeddings of length 1.

    Attributes:
      encoder_id: what `make_encoder` made it from; goes into a manifest's EmbeddingContract.
      weights_sha256: of the file of weights.
      dim: length of an embedding.
      context_length: most tokens of a prompt, its start and end included.
      vocab_size: token ids are below it.
      tokenizer_sha256: of the tokens that it makes of a text that never changes.
    """

    encoder_id: str
    weights_sha256: str
    dim: int
    context_length: int
    vocab_size: int
    tokenizer_sha256: str

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """float32 [N, dim]; each row has length 1.

        Raises:
          UserError: a prompt has more than `context_length` tokens and `truncate` is off.
        """

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        """Token ids with start and end of text, without padding; raises as `encode` does."""

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt of any length, start and end included."""


def make_encoder(spec: str) -> TextEncoder:
    """The encoder that `spec` names.

      embedded             the small CLIP that ships with the package
      ViT-L-14/openai      an open_clip model and a tag of its pretrained weights
      ViT-L-14:FILE        an open_clip model and a checkpoint file
      local-dir:FOLDER     a folder with open_clip_config.json and weights

    Raises:
      UserError: no such encoder, its weights cannot be had, or extra `clip` is missing.
    """
    if spec == "embedded":
        return EmbeddedEncoder()
    if spec.startswith("local-dir:"):
        return OpenClipEncoder(spec)
    name, pretrained, *_ = [*re.split("[/:]", spec, maxsplit=1), ""]
    if not name or not pretrained:
        raise UserError(
            f"unknown encoder {spec!r}; want 'embedded', NAME/TAG as in 'ViT-L-14/openai', "
            "NAME:CHECKPOINT_FILE or local-dir:FOLDER"
        )
    return OpenClipEncoder(name, pretrained)


class _Encoder:
    """What the encoders share: the limit on a prompt's length, padding and batches."""

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        found = self._token_ids(list(prompts))
        for index, (prompt, ids) in enumerate(zip(prompts, found, strict=True)):
            if len(ids) <= self.context_length:
                continue
            if not truncate:
                shown = prompt if len(prompt) <= 40 else prompt[:37] + "..."
                raise UserError(
                    f"prompt {shown!r} has {len(ids)} tokens, {self.encoder_id!r} takes at most "
                    f"{self.context_length} (start and end included); shorten it"
                )
            found[index] = [*ids[: self.context_length - 1], ids[-1]]
        return found

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        found = self.tokenize(prompts, truncate=truncate)
        padded = np.zeros((len(found), self.context_length), np.int64)
        for row, ids in zip(padded, found, strict=True):
            row[: len(ids)] = ids
        parts = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(padded), _BATCH_SIZE):
            parts.append(self._embed(padded[start : start + _BATCH_SIZE]))
        return np.concatenate(parts)

    def count_tokens(self, prompt: str) -> int:
        return len(self._token_ids([prompt])[0])

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        (ids,) = self._token_ids([_SPECIMEN])
        return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


class EmbeddedEncoder(_Encoder):
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


class OpenClipEncoder(_Encoder):
    """The text tower of any open_clip model, in float32 on a GPU (CUDA, MPS) or else on the CPU.

    Args:
      name: an open_clip model ("ViT-L-14") or "local-dir:FOLDER".
      pretrained: a tag ("openai") or the path of a checkpoint; None with "local-dir:".
    """

    def __init__(self, name: str, pretrained: str | None = None):
        open_clip = _import_open_clip()
        known = name.startswith("local-dir:") or open_clip.get_model_config(name)
        if not known:
            raise UserError(f"open_clip has no model {name!r}; see open_clip.list_models()")
        separator = ":" if pretrained and os.path.exists(pretrained) else "/"
        self.encoder_id = name if pretrained is None else f"{name}{separator}{pretrained}"
        config = {"quick_gelu": True} if _wants_quick_gelu(open_clip, name, pretrained) else {}
        try:
            self._weights = _weights_file(open_clip, name, pretrained)
            model = open_clip.create_model(
                name, pretrained=self._weights if pretrained else None, **config
            )
            self._tokenizer = open_clip.get_tokenizer(name, **_tokenizer_options(name))
            self.dim = open_clip.get_model_config(name)["embed_dim"]
        except Exception as error:  # a hub, a file or a config: each raises classes of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"cannot load encoder {self.encoder_id!r}: {reason}; "
                "a checkpoint that you have is given as NAME:FILE"
            ) from error
        model.visual = None  # most of the memory, and of no use here
        self._device = _device()
        self._model = model.eval().to(self._device)
        self.context_length = self._tokenizer.context_length
        self.vocab_size = model.vocab_size

    @functools.cached_property
    def weights_sha256(self) -> str:
        return files.measured(self._weights)[1]

    def _token_ids(self, prompts: list[str]) -> list[list[int]]:
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "tokenizer"):  # open_clip's wrapper of a Hugging Face tokenizer
            return tokenizer.tokenizer([tokenizer.clean_fn(text) for text in prompts])["input_ids"]
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[start, *tokenizer.encode(text), end] for text in prompts]

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(tokens).to(self._device)
            return self._model.encode_text(tokens, normalize=True).cpu().numpy()


def _import_open_clip():
    # torch's triton brings an LLVM that aborts the process where tensorflow's is loaded already.
    # It compiles for GPUs only, and torch does without.
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)
    try:
        import open_clip
    except ImportError:
        raise UserError("open_clip is missing; pip install t2i-tpu[clip]") from None
    return open_clip


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        # TF32 keeps 10 bits: an embedding would depend on its batch in the third digit.
        torch.backends.cuda.matmul.allow_tf32 = False
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _wants_quick_gelu(open_clip, name: str, pretrained: str | None) -> bool:
    """OpenAI's weights need another activation than the config has; open_clip only warns."""
    tag = open_clip.get_pretrained_cfg(name, pretrained or "") or {}
    return bool(tag.get("quick_gelu"))


def _weights_file(open_clip, name: str, pretrained: str | None) -> str:
    if name.startswith("local-dir:"):
        folder = name.removeprefix("local-dir:")
        (weights,) = (file for file in os.listdir(folder) if file.endswith(".safetensors"))
        return os.path.join(folder, weights)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        return open_clip.download_pretrained(tag)
    if not os.path.isfile(pretrained):
        raise FileNotFoundError(f"{pretrained!r} is neither a tag of {name} nor a file")
    return pretrained


def _tokenizer_options(name: str) -> dict[str, str]:
    """open_clip does not look for a vocabulary in a local folder unless it is told."""
    path = os.path.join(name.removeprefix("local-dir:"), "bpe_vocab.txt.gz")
    return {"bpe_path": path} if os.path.exists(path) else {}


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
