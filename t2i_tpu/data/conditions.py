"""Makes a model's conditions from the examples of a data set, or from a user's prompts or labels.

There is one `Conditioning` for each kind of condition. models/conditioning.py describes the fields
of a condition and contains the layer for each kind.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from t2i_tpu.data import text_tower
from t2i_tpu.data.manifest import EmbeddingContract, Manifest
from t2i_tpu.data.sources.tables.columns import list_names
from t2i_tpu.errors import UserError
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.options import check_choice, suggest
from t2i_tpu.text import TextEncoder


class Conditioning:
    """The interface of a kind of condition.

    Attributes:
      features: names of the features of a record from which the condition is made.
      remedy: advice for the error message if a data set lacks these features.
    """

    features: tuple[str, ...]
    remedy = "choose another conditioning"

    def is_available(self, manifest: Manifest) -> bool:
        """Return whether a data set has the features of this kind."""
        raise NotImplementedError

    def make_spec(self, manifest: Manifest) -> ConditionSpec:
        """Return the description of a data set's conditions."""
        raise NotImplementedError

    def from_features(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the conditions of a batch of examples that `parse_records` returned."""
        raise NotImplementedError

    def from_prompts(
        self, prompts: Sequence[str], manifest: Manifest, folder: str
    ) -> dict[str, np.ndarray]:
        """Return the conditions of prompts.

        Args:
          prompts: texts or, if the model takes classes, their names or numbers.
          manifest: the manifest of the data set that the model was trained on.
          folder: the folder that contains the text tower, local or gs://: the data set's folder or
            a workdir.

        Raises:
          UserError: a prompt is too long; a class is unknown; or the encoder differs from the one that
            encoded the data set.
        """
        raise NotImplementedError


class Embedding(Conditioning):
    """The pooled embedding of a prompt, from a text encoder that is not trained further."""

    features = ("embedding",)

    def is_available(self, manifest):
        return bool(manifest.embedding)

    def make_spec(self, manifest):
        return ConditionSpec({"embedding": ((manifest.embedding.dim,), "float32")})

    def from_features(self, features):
        return {"embedding": features["embedding"]}

    def from_prompts(self, prompts, manifest, folder):
        encoder = _open_embedding_encoder(manifest, folder)
        return {"embedding": encoder.encode(prompts)}


class TokenStates(Conditioning):
    """The pooled embedding of a prompt, and the text tower's last hidden state of each token."""

    features = ("embedding", "sequence")
    remedy = "choose another conditioning, or prepare the data set with --sequence"

    def is_available(self, manifest):
        return bool(manifest.sequence)

    def make_spec(self, manifest):
        contract = manifest.sequence
        shape = (contract.context_length, contract.width)
        fields = {
            "embedding": ((manifest.embedding.dim,), "float32"),
            "sequence": (shape, "float32"),
        }
        return ConditionSpec(fields)

    def from_features(self, features):
        return {
            "embedding": features["embedding"],
            "sequence": tf.cast(features["sequence"], tf.float32),
        }

    def from_prompts(self, prompts, manifest, folder):
        encoder, contract = _open_embedding_encoder(manifest, folder), manifest.sequence
        expected = (contract.weights_sha256, contract.width, contract.context_length)
        if (encoder.weights_sha256, encoder.sequence_width, encoder.context_length) != expected:
            raise UserError(
                f"encoder {contract.encoder!r} produces different token states from those stored in "
                "the data set; install the version that the data set was prepared with"
            )
        embeddings, sequences = encoder.encode_sequences(prompts)
        padded = np.zeros((len(prompts), contract.context_length, contract.width), np.float32)
        for row, states in zip(padded, sequences, strict=True):
            row[: len(states)] = states
        return {"embedding": embeddings, "sequence": padded}


class Tokens(Conditioning):
    """The token ids of a prompt, for a transformer that is trained together with the denoiser."""

    features = ("tokens",)

    def is_available(self, manifest):
        return bool(manifest.tokens)

    def make_spec(self, manifest):
        contract = manifest.tokens
        fields = {"tokens": ((contract.context_length,), "int32")}
        return ConditionSpec(fields, num_ids=contract.vocab_size)

    def from_features(self, features):
        return {"tokens": features["tokens"]}

    def from_prompts(self, prompts, manifest, folder):
        encoder = _open_token_encoder(manifest, folder)
        padded = np.zeros((len(prompts), manifest.tokens.context_length), np.int32)
        for row, tokens in zip(padded, encoder.tokenize(prompts), strict=True):
            row[: len(tokens)] = tokens
        return {"tokens": padded}


class Label(Conditioning):
    """The class of an image. Stored labels start at 0, and conditions start at 1."""

    features = ("label",)

    def is_available(self, manifest):
        return bool(manifest.label_names)

    def make_spec(self, manifest):
        return ConditionSpec({"label": ((), "int32")}, num_ids=len(manifest.label_names))

    def from_features(self, features):
        return {"label": features["label"] + 1}

    def from_prompts(self, prompts, manifest, folder):
        names = list(manifest.label_names)
        return {"label": np.array([self._parse(prompt, names) for prompt in prompts], np.int32)}

    def _parse(self, label: str, names: list[str]) -> int:
        """Return the condition of a class that is given by name or number, or raise UserError."""
        if label in names:
            return names.index(label) + 1
        if label.isdecimal() and int(label) < len(names):
            return int(label) + 1
        raise UserError(
            f"the model does not know the class {label!r}; it must be one of {list_names(names)}"
            f"{suggest(label, names)}"
        )


CONDITIONINGS: dict[str, Conditioning] = {
    "embedding": Embedding(),
    "sequence": TokenStates(),
    "label": Label(),
    "tokens": Tokens(),
}


def stack_conditions(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    """Return the conditions of the examples that `Dataset.examples` returned as one batch."""
    conditions = [example["condition"] for example in examples]
    return {name: np.stack([c[name] for c in conditions]) for name in conditions[0]}


def get_conditioning(kind: str) -> Conditioning:
    """Return the conditioning that config.model.conditioning names, or raise UserError."""
    check_choice("config.model.conditioning", kind, tuple(CONDITIONINGS))
    return CONDITIONINGS[kind]


def _open_embedding_encoder(manifest: Manifest, folder: str) -> TextEncoder:
    """Open the encoder that made a data set's embeddings. Raises UserError if it has changed."""
    contract: EmbeddingContract = manifest.embedding
    encoder = text_tower.open_encoder(contract, manifest, folder)
    if contract.weights_sha256 and encoder.weights_sha256 != contract.weights_sha256:
        raise UserError(
            f"encoder {contract.encoder!r} has different weights now than when it made the data "
            "set's embeddings; install the version that the data set was prepared with"
        )
    if encoder.dim != contract.dim:
        raise UserError(
            f"encoder {contract.encoder!r} produces embeddings of {encoder.dim} numbers, but those of "
            f"the data set have {contract.dim}, so its manifest names the wrong encoder; prepare the "
            "data again"
        )
    if not contract.normalized:
        raise UserError(
            f"the data set stores unnormalized embeddings, but encoder {contract.encoder!r} "
            f"produces unit-length ones; prepare the data again with --encoder={contract.encoder}"
        )
    return encoder


def _open_token_encoder(manifest: Manifest, folder: str) -> TextEncoder:
    """Open the encoder that made a data set's tokens. Raises UserError if it has changed."""
    contract = manifest.tokens
    encoder = text_tower.open_encoder(contract, manifest, folder)
    expected = (contract.vocab_size, contract.context_length, contract.tokenizer_sha256)
    sha256 = encoder.tokenizer_sha256 if contract.tokenizer_sha256 else ""
    if (encoder.vocab_size, encoder.context_length, sha256) != expected:
        raise UserError(
            f"encoder {contract.encoder!r} produces different tokens from those stored in the data "
            "set; install the version that the data set was prepared with"
        )
    return encoder
