"""The captions of a unit -> embeddings and tokens, in a file beside it.

The encoder is one, in the process that the workers report to, and a batch never holds captions of
two units: so what an embedding is does not depend on the number of workers.
"""

import io

import numpy as np
import tensorflow as tf

from t2i_tpu.data import files
from t2i_tpu.data.encoders import TextEncoder, make_encoder
from t2i_tpu.data.prepare.unit import read_examples, unit_path
from t2i_tpu.data.schema import EmbeddingContract, TokenContract


class UnitEncoder:
    """Nothing where the encoder is "none"; then embeddings that came with the data are kept."""

    def __init__(self, spec: str):
        self.given_by = spec.partition(":")[2] if spec.startswith("none") else None
        self.encoder: TextEncoder | None = None if spec.startswith("none") else make_encoder(spec)

    def encode(self, work: str, index: int) -> None:
        path = unit_path(work, index) + ".npz"
        if self.encoder is None or tf.io.gfile.exists(path):
            return
        captions = [
            example.features.feature["caption"].bytes_list.value[0].decode()
            for example in read_examples(work, index)
        ]
        lengths = [self.encoder.count_tokens(caption) for caption in captions]
        cut = sum(length > self.encoder.context_length for length in lengths)
        tokens = self.encoder.tokenize(captions, truncate=True)
        with io.BytesIO() as content:
            np.savez(
                content,
                embeddings=self.encoder.encode(captions, truncate=True),
                tokens=np.array([id_ for ids in tokens for id_ in ids], np.int32),
                ends=np.cumsum([len(ids) for ids in tokens], dtype=np.int64),
                cut=cut,
            )
            files.write(path, content.getvalue())

    def read(self, work: str, index: int) -> tuple[np.ndarray, list[np.ndarray], int] | None:
        """(embeddings float32 [N, dim], N arrays of tokens, captions cut) of a unit."""
        if self.encoder is None:
            return None
        with tf.io.gfile.GFile(unit_path(work, index) + ".npz", "rb") as file:
            content = np.load(io.BytesIO(file.read()))
        tokens = np.split(content["tokens"], content["ends"][:-1])
        return content["embeddings"], tokens, int(content["cut"])

    def contracts(
        self, dim: int | None, normalized: bool
    ) -> tuple[EmbeddingContract | None, TokenContract | None]:
        """What the manifest promises; `dim` and `normalized` are of embeddings that were given."""
        if self.encoder is None:
            given = EmbeddingContract(self.given_by or "unknown", "", dim or 0, normalized)
            return (given if dim else None), None
        encoder = self.encoder
        embedding = EmbeddingContract(
            encoder.encoder_id, encoder.weights_sha256, encoder.dim, normalized=True
        )
        return embedding, TokenContract(
            encoder.encoder_id,
            encoder.vocab_size,
            encoder.context_length,
            encoder.tokenizer_sha256,
        )
