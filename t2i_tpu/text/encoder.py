"""The interface of text encoders, and the code that all of them share."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from t2i_tpu.errors import UserError

_BATCH_SIZE = 256
# Identifies a tokenizer by the tokens that it makes of this text, because open_clip's kinds of
# tokenizers have nothing else in common. The text must never change.
_SPECIMEN = (
    "The quick brown fox jumps over 12 lazy dogs, 3456789 times; a photograph of an astronaut's "
    'strawberry-coloured umbrella & grinning face with "big eyes" (watercolour, 1890s), #sunset '
    "naïve façade 東京 ❤ internationalization"
)


class TextEncoder(Protocol):
    """Turns prompts into embeddings of length 1.

    Attributes:
      encoder_id: the argument of `make_encoder`; a manifest's EmbeddingContract stores it.
      weights_sha256: hash of the file with the weights.
      dim: length of an embedding.
      sequence_width: length of a token's state, or None if the encoder gives no states.
      context_length: most tokens of a prompt, its start and end included.
      vocab_size: all token ids are below it.
      tokenizer_sha256: hash of the tokens of a text that never changes.
    """

    encoder_id: str
    weights_sha256: str
    dim: int
    sequence_width: int | None
    context_length: int
    vocab_size: int
    tokenizer_sha256: str

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Return embeddings, float32 [N, dim]; each row has length 1.

        Args:
          prompts: N texts.
          truncate: whether to cut prompts of more than `context_length` tokens.

        Raises:
          UserError: a prompt has more than `context_length` tokens, and `truncate` is false.
        """

    def encode_sequences(
        self, prompts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return embeddings, as `encode` does, and the last hidden states of each prompt.

        The states are float16 [number of tokens, sequence_width], taken after the last layer norm,
        before pooling and projection.

        Raises:
          UserError: as `encode` does, or a state does not fit into float16.
        """

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        """Return token ids with the start and end of the text, without padding.

        Raises:
          UserError: as `encode` does.
        """

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt of any length, start and end included."""

    def export(self, folder: str) -> None:
        """Write the files that `OnnxEncoder` reads into a local folder.

        Raises:
          UserError: the exported encoder would give other tokens or embeddings.
        """


class Encoder:
    """Implements the limit on a prompt's length, padding and batches for all encoders.

    Subclasses have the attributes of `TextEncoder` and implement the methods below.
    """

    def _token_ids(self, prompts: list[str]) -> list[list[int]]:
        """Return the token ids of prompts of any length, as `tokenize` does."""
        raise NotImplementedError

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        """Return embeddings of length 1, [N, dim], of padded tokens, int64 [N, context_length]."""
        raise NotImplementedError

    def _embed_sequences(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return embeddings, and states float32 [N, context_length, sequence_width]."""
        raise NotImplementedError

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        tokens = self._token_ids(list(prompts))
        for index, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True)):
            if len(ids) <= self.context_length:
                continue
            if not truncate:
                start = prompt if len(prompt) <= 40 else prompt[:37] + "..."
                raise UserError(
                    f"prompt {start!r} has {len(ids)} tokens, but {self.encoder_id!r} takes at most "
                    f"{self.context_length} (start and end included); shorten it"
                )
            tokens[index] = [*ids[: self.context_length - 1], ids[-1]]
        return tokens

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        parts = [np.zeros((0, self.dim), np.float32)]
        for _, padded in self._iter_batches(prompts, truncate):
            parts.append(self._embed(padded))
        return np.concatenate(parts)

    def encode_sequences(
        self, prompts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        parts, sequences = [np.zeros((0, self.dim), np.float32)], []
        for lengths, padded in self._iter_batches(prompts, truncate):
            embeddings, states = self._embed_sequences(padded)
            with np.errstate(over="ignore"):
                states = states.astype(np.float16)
            parts.append(embeddings)
            # Copy the states, so that the memory of the padding is freed.
            sequences += [row[:length].copy() for row, length in zip(states, lengths, strict=True)]
        if not all(np.isfinite(sequence).all() for sequence in sequences):
            raise UserError(f"the states of {self.encoder_id!r} do not fit into float16")
        return np.concatenate(parts), sequences

    def count_tokens(self, prompt: str) -> int:
        return len(self._token_ids([prompt])[0])

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        (ids,) = self._token_ids([_SPECIMEN])
        return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()

    def _iter_batches(
        self, prompts: Sequence[str], truncate: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the number of tokens of each prompt, and ids int64 [N, context_length].

        The ids are padded with 0.
        """
        tokens = self.tokenize(prompts, truncate=truncate)
        for start in range(0, len(tokens), _BATCH_SIZE):
            batch = tokens[start : start + _BATCH_SIZE]
            padded = np.zeros((len(batch), self.context_length), np.int64)
            for row, ids in zip(padded, batch, strict=True):
                row[: len(ids)] = ids
            yield [len(ids) for ids in batch], padded
