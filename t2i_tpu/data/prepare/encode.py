"""The captions of a unit -> embeddings, tokens and perhaps states, in a file beside it.

The encoder is one, in the process that the workers report to, and a batch never holds captions of
two units: so what an embedding is does not depend on the number of workers.
"""

import dataclasses
import io
import json
import posixpath

import numpy as np
import tensorflow as tf

from t2i_tpu.data.manifest import EmbeddingContract, SequenceContract, TokenContract
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.unit import Done, read_done, read_examples
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files
from t2i_tpu.text import TextEncoder, make_encoder


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What the encoder made of the captions of a unit, row by row.

    Attributes:
      embeddings: float32 [N, dim].
      tokens: N arrays of ids.
      sequences: N float16 [tokens, width], or N times None.
      cut: captions that were too long.
    """

    embeddings: np.ndarray
    tokens: list[np.ndarray]
    sequences: list[np.ndarray | None]
    cut: int


class UnitEncoder:
    """Nothing where the encoder is "none"; then embeddings that came with the data are kept.

    Raises:
      UserError: no such encoder, or it gives no states and they are asked for.
    """

    def __init__(self, settings: Settings):
        spec, self.sequence = settings.encoder, settings.sequence
        self.given_by = spec.partition(":")[2] if spec.startswith("none") else None
        self.encoder: TextEncoder | None = None if spec.startswith("none") else make_encoder(spec)
        if self.sequence and not self.encoder.sequence_width:
            raise UserError(f"--sequence: encoder {spec!r} gives no state of every token")

    def check(self, work: str) -> None:
        """Raises UserError where the preparation in `work` was begun with another encoder of the
        same name: one data set would hold what both made."""
        if self.encoder is None:
            return
        path = posixpath.join(work, "encoder.json")
        ours = [self.encoder.weights_sha256, self.encoder.tokenizer_sha256]
        if not tf.io.gfile.exists(path):
            files.write(path, json.dumps(ours))
        with tf.io.gfile.GFile(path) as file:
            if json.load(file) != ours:
                raise UserError(
                    f"encoder {self.encoder.encoder_id!r} has other weights or makes other tokens "
                    "than when this preparation began; bring that one back, or choose another "
                    "--output"
                )

    def encode(self, work: str, index: int) -> Done:
        """Writes what `read` gives, if it is not there; the record of the unit that was encoded."""
        done = read_done(work, index)
        path = _path(work, done)
        if self.encoder is None or tf.io.gfile.exists(path):
            return done
        captions = [
            example.features.feature["caption"].bytes_list.value[0].decode()
            for example in read_examples(work, done)
        ]
        lengths = [self.encoder.count_tokens(caption) for caption in captions]
        tokens = self.encoder.tokenize(captions, truncate=True)
        arrays = {
            "tokens": np.array([id_ for ids in tokens for id_ in ids], np.int32),
            "ends": np.cumsum([len(ids) for ids in tokens], dtype=np.int64),
            "cut": sum(length > self.encoder.context_length for length in lengths),
        }
        if self.sequence:
            arrays["embeddings"], states = self.encoder.encode_sequences(captions, truncate=True)
            none = np.zeros((0, self.encoder.sequence_width), np.float16)
            arrays["states"] = np.concatenate([none, *states])
        else:
            arrays["embeddings"] = self.encoder.encode(captions, truncate=True)
        with io.BytesIO() as content:
            np.savez(content, **arrays)
            files.write(path, content.getvalue())
        return done

    def read(self, work: str, done: Done) -> Encoded | None:
        if self.encoder is None:
            return None
        with tf.io.gfile.GFile(_path(work, done), "rb") as file:
            content = np.load(io.BytesIO(file.read()))
        ends = content["ends"][:-1]
        tokens, sequences = np.split(content["tokens"], ends), [None] * len(content["ends"])
        if self.sequence:
            sequences = np.split(content["states"], ends)
        return Encoded(content["embeddings"], tokens, sequences, int(content["cut"]))

    def contracts(
        self, dim: int | None, normalized: bool
    ) -> dict[str, EmbeddingContract | TokenContract | SequenceContract]:
        """What the manifest promises, by its fields; `dim` and `normalized` are of embeddings that
        were given."""
        if self.encoder is None:
            given = EmbeddingContract(self.given_by or "unknown", "", dim or 0, normalized)
            return {"embedding": given} if dim else {}
        encoder = self.encoder
        name, sha256 = encoder.encoder_id, encoder.weights_sha256
        found = {
            "embedding": EmbeddingContract(name, sha256, encoder.dim, normalized=True),
            "tokens": TokenContract(
                name, encoder.vocab_size, encoder.context_length, encoder.tokenizer_sha256
            ),
        }
        if self.sequence:
            found["sequence"] = SequenceContract(
                name, sha256, encoder.sequence_width, encoder.context_length
            )
        return found


def _path(work: str, done: Done) -> str:
    return posixpath.join(work, done.file + ".npz")
