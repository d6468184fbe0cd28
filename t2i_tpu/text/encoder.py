"""The interface of text encoders, and code that all of them share."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from t2i_tpu.errors import UserError, shorten

_BATCH_SIZE = 256
# A tokenizer is identified by the tokens of this text, because open_clip's kinds of tokenizers have
# nothing else in common. The text must never change.
_SPECIMEN = (
    "The quick brown fox jumps over 12 lazy dogs, 3456789 times; a photograph of an astronaut's "
    'strawberry-coloured umbrella & grinning face with "big eyes" (watercolour, 1890s), #sunset '
    "naïve façade 東京 ❤ internationalization"
)


class TextEncoder(Protocol):
    """Turns prompts into embeddings of norm 1.

    Attributes:
      encoder_id: the argument of `make_encoder`; a manifest's EmbeddingContract stores it.
      weights_sha256: hash of the file that contains the weights.
      dim: number of values in an embedding.
      sequence_width: number of values in the state of a token, or None if the encoder does not
        return states.
      context_length: maximum number of tokens in a prompt, including start and end.
      vocab_size: number of token ids; all ids are smaller.
      tokenizer_sha256: hash that identifies the tokenizer. It is computed from the tokens of a fixed
        text.
    """

    encoder_id: str
    weights_sha256: str
    dim: int
    sequence_width: int | None
    context_length: int
    vocab_size: int
    tokenizer_sha256: str

    def encode(self, prompts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Return embeddings, float32 [N, dim]. The norm of each row is 1.

        Args:
          prompts: N texts.
          truncate: whether to cut prompts that have more than `context_length` tokens.

        Raises:
          UserError: a prompt has more than `context_length` tokens, and `truncate` is false.
        """

    def encode_sequences(
        self, prompts: Sequence[str], *, truncate: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return embeddings, as `encode` does, and the last hidden states of each prompt.

        The states are float16 [number of tokens, sequence_width]. They are taken after the last layer
        norm, and before pooling and projection.

        Raises:
          UserError: a prompt is too long, as in `encode`, or a state exceeds the range of float16.
        """

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        """Return the token ids of each prompt, including start and end but without padding.

        Raises:
          UserError: a prompt is too long, as in `encode`.
        """

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt of any length, including start and end."""

    def export(self, folder: str) -> None:
        """Write the files that `OnnxEncoder` reads into a local folder.

        Raises:
          UserError: the text tower cannot be exported, or the exported one gives different tokens or
            embeddings.
        """


class Encoder:
    """Implements the parts of `TextEncoder` that are the same for all encoders.

    These are the limit on the length of a prompt, padding, and batches. Subclasses have the attributes
    of `TextEncoder` and implement the next three methods.
    """

    def _get_token_ids(self, prompts: list[str]) -> list[list[int]]:
        """Return the token ids of each prompt, including start and end, without a limit on the length."""
        raise NotImplementedError

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        """Return embeddings of norm 1, float32 [N, dim].

        Args:
          tokens: token ids that are padded with 0, int64 [N, context_length].
        """
        raise NotImplementedError

    def _embed_sequences(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return embeddings, as `_embed` does, and states.

        The states are float32 [N, context_length, sequence_width].
        """
        raise NotImplementedError

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        tokens = self._get_token_ids(list(prompts))
        for index, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True)):
            if len(ids) <= self.context_length:
                continue
            if not truncate:
                excess = len(ids) - self.context_length
                raise UserError(
                    f"prompt {shorten(prompt, 40)!r} has {len(ids)} tokens, {excess} too many: "
                    f"{self.encoder_id!r} takes at most {self.context_length} (including start and end); "
                    "shorten it"
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
            raise UserError(
                f"the states of encoder {self.encoder_id!r} exceed the range of float16; choose another "
                "--encoder or leave out --sequence"
            )
        return np.concatenate(parts), sequences

    def count_tokens(self, prompt: str) -> int:
        return len(self._get_token_ids([prompt])[0])

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        (ids,) = self._get_token_ids([_SPECIMEN])
        return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()

    def _iter_batches(
        self, prompts: Sequence[str], truncate: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield batches of prompts as (number of tokens of each prompt, token ids).

        The ids are int64 [N, context_length] and padded with 0.
        """
        tokens = self.tokenize(prompts, truncate=truncate)
        for start in range(0, len(tokens), _BATCH_SIZE):
            batch = tokens[start : start + _BATCH_SIZE]
            padded = np.zeros((len(batch), self.context_length), np.int64)
            for row, ids in zip(padded, batch, strict=True):
                row[: len(ids)] = ids
            yield [len(ids) for ids in batch], padded
