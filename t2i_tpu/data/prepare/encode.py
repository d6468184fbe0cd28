"""Encodes the captions of each unit into a file next to the unit's examples.

There is only one encoder, in the process that the workers report to, and a batch never contains
captions of two units. So an embedding does not depend on the number of workers.
"""

import dataclasses
import io
import json
import posixpath

import numpy as np
import tensorflow as tf

from t2i_tpu.data import records
from t2i_tpu.data.manifest import EmbeddingContract, SequenceContract, TokenContract
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.unit import UnitResult, read_examples, read_result
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files
from t2i_tpu.text import TextEncoder, make_encoder


@dataclasses.dataclass(frozen=True)
class EncodedUnit:
    """The encoded captions of a unit, in the order of its N examples.

    Attributes:
      embeddings: float32 [N, dim].
      tokens: N arrays of token ids.
      sequences: N arrays, float16 [tokens, width], or [None] * N if there are no sequences.
      num_cut: number of captions that were cut because they were too long.
    """

    embeddings: np.ndarray
    tokens: list[np.ndarray]
    sequences: list[np.ndarray | None]
    num_cut: int

    def add_to_example(self, example: tf.train.Example, row: int) -> None:
        """Add to an example the text features with the index `row`."""
        records.add_text_features(
            example, self.embeddings[row], self.tokens[row].tolist(), self.sequences[row]
        )


class UnitEncoder:
    """Encodes the captions of units. With --encoder=none it does nothing.

    Raises:
      UserError: there is no such encoder, or --sequence is set and the encoder gives no sequences.
    """

    def __init__(self, settings: Settings):
        spec = settings.encoder
        self.sequence = settings.sequence
        self.encoder: TextEncoder | None = None
        self.given_encoder = ""  # name of the encoder whose embeddings come with the data
        if settings.keeps_embeddings:
            self.given_encoder = spec.partition(":")[2]
        else:
            self.encoder = make_encoder(spec)
        if self.sequence and not self.encoder.sequence_width:
            raise UserError(
                f"--sequence: encoder {spec!r} does not give the states of tokens; choose another "
                "--encoder or leave out --sequence"
            )

    def check_unchanged(self, work: str) -> None:
        """Raise UserError if the preparation began with a different encoder of the same name.

        Otherwise the data set would contain embeddings of both.
        """
        if self.encoder is None:
            return
        path = posixpath.join(work, "encoder.json")
        hashes = [self.encoder.weights_sha256, self.encoder.tokenizer_sha256]
        if not tf.io.gfile.exists(path):
            files.write(path, json.dumps(hashes))
        with tf.io.gfile.GFile(path) as file:
            if json.load(file) != hashes:
                raise UserError(
                    f"encoder {self.encoder.encoder_id!r} has different weights or a different "
                    "tokenizer than when this preparation began; restore the original encoder, or choose "
                    "another --output"
                )

    def encode_unit(self, work: str, name: str) -> UnitResult:
        """Encode the captions of a unit if necessary, and return the unit's result."""
        result = read_result(work, name)
        path = _make_path(work, result)
        if self.encoder is None or tf.io.gfile.exists(path):
            return result
        captions = [
            example.features.feature["caption"].bytes_list.value[0].decode()
            for example in read_examples(work, result)
        ]
        with io.BytesIO() as content:
            np.savez(content, **self._encode_captions(captions))
            files.write(path, content.getvalue())
        return result

    def _encode_captions(self, captions: list[str]) -> dict[str, np.ndarray | int]:
        """Return the arrays of a unit's file. Tokens and states of all captions are concatenated."""
        lengths = [self.encoder.count_tokens(caption) for caption in captions]
        tokens = self.encoder.tokenize(captions, truncate=True)
        arrays = {
            "tokens": np.array([token for ids in tokens for token in ids], np.int32),
            "ends": np.cumsum([len(ids) for ids in tokens], dtype=np.int64),
            "cut": sum(length > self.encoder.context_length for length in lengths),
        }
        if self.sequence:
            arrays["embeddings"], states = self.encoder.encode_sequences(captions, truncate=True)
            no_states = np.zeros((0, self.encoder.sequence_width), np.float16)
            arrays["states"] = np.concatenate([no_states, *states])  # works for no captions too
        else:
            arrays["embeddings"] = self.encoder.encode(captions, truncate=True)
        return arrays

    def read_unit(self, work: str, result: UnitResult) -> EncodedUnit | None:
        """Return the captions that `encode_unit` encoded, or None with --encoder=none."""
        if self.encoder is None:
            return None
        with tf.io.gfile.GFile(_make_path(work, result), "rb") as file:
            arrays = np.load(io.BytesIO(file.read()))
        ends = arrays["ends"][:-1]
        tokens = np.split(arrays["tokens"], ends)
        sequences = [None] * len(tokens)
        if self.sequence:
            sequences = np.split(arrays["states"], ends)
        return EncodedUnit(arrays["embeddings"], tokens, sequences, int(arrays["cut"]))

    def make_contracts(
        self, given_dim: int | None, given_normalized: bool
    ) -> dict[str, EmbeddingContract | TokenContract | SequenceContract]:
        """Return {field of the manifest: its contract}.

        Args:
          given_dim: dimension of the embeddings that came with the data, or None if there are none.
          given_normalized: whether all of these embeddings have norm 1.
        """
        encoder = self.encoder
        if encoder is None:
            if not given_dim:
                return {}
            name = self.given_encoder or "unknown"
            return {"embedding": EmbeddingContract(name, "", given_dim, given_normalized)}
        name, sha256 = encoder.encoder_id, encoder.weights_sha256
        contracts = {
            "embedding": EmbeddingContract(name, sha256, encoder.dim, normalized=True),
            "tokens": TokenContract(
                name, encoder.vocab_size, encoder.context_length, encoder.tokenizer_sha256
            ),
        }
        if self.sequence:
            contracts["sequence"] = SequenceContract(
                name, sha256, encoder.sequence_width, encoder.context_length
            )
        return contracts


def _make_path(work: str, result: UnitResult) -> str:
    """Return the path of the encoded captions of a unit."""
    return posixpath.join(work, result.file + ".npz")
