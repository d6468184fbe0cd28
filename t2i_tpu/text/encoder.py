"""What a text encoder is, and what all of them share."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
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
      sequence_width: length of a token's state, or None where the encoder gives no states.
      context_length: most tokens of a prompt, its start and end included.
      vocab_size: token ids are below it.
      tokenizer_sha256: of the tokens that it makes of a text that never changes.
    """

    encoder_id: str
    weights_sha256: str
    dim: int
    sequence_width: int | None
    context_length: int
    vocab_size: int
    tokenizer_sha256: str

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """float32 [N, dim]; each row has length 1.

        Raises:
          UserError: a prompt has more than `context_length` tokens and `truncate` is off.
        """

    def encode_sequences(
        self, prompts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """What `encode` gives, and of each prompt the text tower's last hidden states: float16
        [its tokens, sequence_width], after the last layer norm, before pooling and projection.

        Raises:
          UserError: as `encode` does; a state does not fit into float16.
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
        parts = [np.zeros((0, self.dim), np.float32)]
        for _, padded in self._batches(prompts, truncate):
            parts.append(self._embed(padded))
        return np.concatenate(parts)

    def encode_sequences(
        self, prompts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        parts, sequences = [np.zeros((0, self.dim), np.float32)], []
        for lengths, padded in self._batches(prompts, truncate):
            embeddings, states = self._embed_sequences(padded)
            with np.errstate(over="ignore"):
                states = states.astype(np.float16)
            parts.append(embeddings)
            # Of its own memory, so that the padding is not kept.
            sequences += [row[:length].copy() for row, length in zip(states, lengths, strict=True)]
        if not all(np.isfinite(sequence).all() for sequence in sequences):
            raise UserError(f"the states of {self.encoder_id!r} do not fit into float16")
        return np.concatenate(parts), sequences

    def _batches(
        self, prompts: Sequence[str], truncate: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """(tokens of each prompt, token ids int64 [N, context_length] padded with 0)."""
        found = self.tokenize(prompts, truncate=truncate)
        for start in range(0, len(found), _BATCH_SIZE):
            some = found[start : start + _BATCH_SIZE]
            padded = np.zeros((len(some), self.context_length), np.int64)
            for row, ids in zip(padded, some, strict=True):
                row[: len(ids)] = ids
            yield [len(ids) for ids in some], padded

    def count_tokens(self, prompt: str) -> int:
        return len(self._token_ids([prompt])[0])

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        (ids,) = self._token_ids([_SPECIMEN])
        return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
