"""Encodes prompts with the text tower of an open_clip model, in torch (extra `clip`)."""

import functools
import os
import re
import sys

import numpy as np

from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.storage import files
from t2i_tpu.text.encoder import Encoder
from t2i_tpu.text.last_states import encode_sequences, last_norm
from t2i_tpu.text.onnx_tower import OnnxEncoder

# Prompts for which the embeddings of an exported encoder are compared with the original ones.
_SPECIMENS = ("", "a red heart", "the quick brown fox jumps over 12 lazy dogs")


class OpenClipEncoder(Encoder):
    """The text tower of any open_clip model, in float32.

    It runs on a GPU (CUDA or MPS) if there is one, otherwise on the CPU.

    Args:
      name: an open_clip model ("ViT-L-14") or "local-dir:FOLDER".
      pretrained: a tag ("openai"), the path of a checkpoint, or None with "local-dir:".
      keep_images: whether to keep the image tower, `model.visual`, which takes most of the memory.

    Attributes:
      model: the open_clip model.
      device: the torch device that it computes on.
      tokenizer: open_clip's tokenizer for the model.

    Raises:
      UserError: open_clip is not installed, or the model or its weights cannot be loaded.
    """

    def __init__(self, name: str, pretrained: str | None = None, *, keep_images: bool = False):
        open_clip = import_open_clip()
        if not name.startswith("local-dir:") and not open_clip.get_model_config(name):
            raise UserError(f"open_clip has no model {name!r}; see open_clip.list_models()")
        separator = ":" if pretrained and os.path.exists(pretrained) else "/"
        self.encoder_id = name if pretrained is None else f"{name}{separator}{pretrained}"
        # The tag says how the weights were trained. open_clip gets only their file, so pass this on.
        tag = open_clip.get_pretrained_cfg(name, pretrained or "") or {}
        # For OpenAI's weights the config of the model does not say this, and open_clip only warns.
        config = {"quick_gelu": True} if tag.get("quick_gelu") else {}
        try:
            self._weights = _find_weights(open_clip, name, pretrained)
            model = open_clip.create_model(
                name,
                pretrained=self._weights if pretrained else None,
                force_preprocess_cfg=tag,
                **config,
            )
            self.tokenizer = open_clip.get_tokenizer(name, **_get_tokenizer_options(name))
            self.dim = open_clip.get_model_config(name)["embed_dim"]
        # The model hub, the weights file and the config each raise different classes of errors.
        except Exception as error:
            raise UserError(
                f"cannot load encoder {self.encoder_id!r}: {get_first_line(error)}; "
                "to use a local checkpoint, write NAME:FILE"
            ) from error
        if not keep_images:
            model.visual = None
        self.device = choose_device()
        self.model = model.eval().to(self.device)
        norm = last_norm(model)
        self.sequence_width = norm and norm.normalized_shape[0]
        self.context_length = self.tokenizer.context_length
        self.vocab_size = model.vocab_size

    @functools.cached_property
    def weights_sha256(self) -> str:
        return files.measure(self._weights)[1]

    def _get_token_ids(self, prompts: list[str]) -> list[list[int]]:
        tokenizer = self.tokenizer
        # The tokenizer inside open_clip's wrapper for Hugging Face adds start and end itself.
        if hasattr(tokenizer, "tokenizer"):
            return tokenizer.tokenizer([tokenizer.clean_fn(text) for text in prompts])["input_ids"]
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[start, *tokenizer.encode(text), end] for text in prompts]

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(tokens).to(self.device)
            return self.model.encode_text(tokens, normalize=True).cpu().numpy()

    def _embed_sequences(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(tokens).to(self.device)
            embeddings, states = encode_sequences(self.model, tokens)
            return embeddings.cpu().numpy(), states.cpu().numpy()

    def export(self, folder: str) -> None:
        open_clip = import_open_clip()
        problem = f"the text tower of {self.encoder_id!r} cannot be exported"
        if not isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            raise UserError(
                f"{problem}: its tokenizer is a {type(self.tokenizer).__name__}, not CLIP's; "
                "leave out --export_text_tower"
            )
        try:
            from t2i_tpu.text import export
        except ImportError as error:
            raise UserError(f"{problem}: {error}; pip install -e '.[clip]'") from None
        export.export_encoder(self.model.cpu(), self.tokenizer, folder)
        self.model.to(self.device)
        exported = OnnxEncoder(folder, self.encoder_id, self.weights_sha256)
        for name in ("dim", "sequence_width", "context_length", "vocab_size", "tokenizer_sha256"):
            if getattr(exported, name) != getattr(self, name):
                raise UserError(
                    f"{problem}: the exported one has a different {name}; leave out "
                    "--export_text_tower"
                )
        difference = np.abs(exported.encode(_SPECIMENS) - self.encode(_SPECIMENS)).max()
        if not difference < 1e-4:
            raise UserError(
                f"{problem}: the embeddings of the exported one differ by {difference:.2g}; leave out "
                "--export_text_tower"
            )


def split_spec(spec: str) -> tuple[str, str | None] | None:
    """Return the arguments of `OpenClipEncoder` that `spec` stands for, or None if it is malformed.

    Args:
      spec: NAME/TAG, NAME:FILE or local-dir:FOLDER.
    """
    if spec.startswith("local-dir:"):
        return spec, None
    parts = re.split("[/:]", spec, maxsplit=1)
    return tuple(parts) if len(parts) == 2 and all(parts) else None


def import_open_clip():
    """Return the module open_clip. Raises UserError if it is not installed."""
    avoid_triton()
    try:
        import open_clip
    except ImportError:
        raise UserError("this model needs open_clip; pip install -e '.[clip]'") from None
    return open_clip


def avoid_triton() -> None:
    """Make it possible to import torch in a process that has already imported TensorFlow.

    triton loads an LLVM that aborts the process if TensorFlow's LLVM is already loaded. torch needs
    triton only to compile for GPUs, and works without it.
    """
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)


def choose_device() -> str:
    """Return the torch device to compute on, and turn off TF32 if it is a GPU."""
    import torch

    if torch.cuda.is_available():
        # TF32 keeps only 10 bits, so the third digit of an embedding would depend on its batch.
        torch.backends.cuda.matmul.allow_tf32 = False
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _find_weights(open_clip, name: str, pretrained: str | None) -> str:
    """Return the path of the file with the weights, after downloading it if necessary."""
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


def _get_tokenizer_options(name: str) -> dict[str, str]:
    """Return options that make `get_tokenizer` use the vocabulary of a local folder, if it has one."""
    path = os.path.join(name.removeprefix("local-dir:"), "bpe_vocab.txt.gz")
    return {"bpe_path": path} if os.path.exists(path) else {}
