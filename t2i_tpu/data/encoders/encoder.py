"""What a text encoder is, and what all of them share."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from t2i_tpu.errors import UserError

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

    def export(self, folder: str) -> None:
        """Writes what `OnnxEncoder` reads into a local folder.

        Raises:
          UserError: it cannot be exported so that it gives the same tokens and embeddings.
        """


class Encoder:
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
