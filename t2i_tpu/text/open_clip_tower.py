"""The text tower of an open_clip model, through torch (extra `clip`)."""

import functools
import os
import sys

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files
from t2i_tpu.text.encoder import Encoder
from t2i_tpu.text.onnx_tower import OnnxEncoder

_SPECIMENS = ("", "a red heart", "the quick brown fox jumps over 12 lazy dogs")


class OpenClipEncoder(Encoder):
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
        norm = last_norm(model)
        self.sequence_width = norm and norm.normalized_shape[0]
        self.context_length = self._tokenizer.context_length
        self.vocab_size = model.vocab_size

    @functools.cached_property
    def weights_sha256(self) -> str:
        return files.measure(self._weights)[1]

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

    def _embed_sequences(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        with torch.inference_mode():
            found = encode_sequences(self._model, torch.from_numpy(tokens).to(self._device))
            return tuple(values.cpu().numpy() for values in found)

    def export(self, folder: str) -> None:
        open_clip = _import_open_clip()
        refusal = f"the text tower of {self.encoder_id!r} cannot be exported"
        if not isinstance(self._tokenizer, open_clip.SimpleTokenizer):
            raise UserError(
                f"{refusal}: its tokenizer is not CLIP's own but a {type(self._tokenizer).__name__}; "
                "leave out --export_text_tower"
            )
        try:
            from t2i_tpu.text import export
        except ImportError as error:
            raise UserError(f"{refusal}: {error}; pip install -e '.[clip]'") from None
        export.export_encoder(self._model.cpu(), self._tokenizer, folder)
        self._model.to(self._device)
        exported = OnnxEncoder(folder, self.encoder_id, self.weights_sha256)
        for name in ("dim", "sequence_width", "context_length", "vocab_size", "tokenizer_sha256"):
            if getattr(exported, name) != getattr(self, name):
                raise UserError(f"{refusal}: it got another {name}; leave out --export_text_tower")
        apart = np.abs(exported.encode(_SPECIMENS) - self.encode(_SPECIMENS)).max()
        if not apart < 1e-4:
            raise UserError(
                f"{refusal}: its embeddings are {apart:.2g} apart; leave out --export_text_tower"
            )


def last_norm(model):
    """The layer norm whose output is every token's last state; None where there is none."""
    tower = getattr(model, "text", model)
    has_class_token = getattr(tower, "cls_emb", None) is not None  # CoCa norms what it pooled
    return None if has_class_token else getattr(tower, "ln_final", None)


def encode_sequences(model, tokens):
    """(embeddings [N, dim] of length 1, last states [N, T, width]) of a model with a last norm."""
    states = []
    hook = last_norm(model).register_forward_hook(lambda *call: states.append(call[2]))
    try:
        return model.encode_text(tokens, normalize=True), states[0]
    finally:
        hook.remove()


def _import_open_clip():
    # torch's triton brings an LLVM that aborts the process where tensorflow's is loaded already.
    # It compiles for GPUs only, and torch does without.
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)
    try:
        import open_clip
    except ImportError:
        raise UserError("open_clip is missing; pip install -e '.[clip]'") from None
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
