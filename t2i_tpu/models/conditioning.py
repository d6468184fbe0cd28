"""Conditions, and the layers that encode them for the network.

A condition is a dict of named arrays with one row per example:

  kind       fields
  embedding  embedding float32 [B, dim]
  label      label int32 [B], counted from 1
  tokens     tokens int32 [B, T], padded with 0
  sequence   embedding float32 [B, dim] and sequence float32 [B, T, width], the text tower's state
             of each token, padded with 0

The null condition of classifier-free guidance is zero in every field, so a real condition must not
be all zeros. To add a kind, write a layer here and register it in CONDITIONERS, and also in
BASELINE_CONDITIONERS if its vector is enough to describe the condition. Then add a class to
data/conditions.py that gets such conditions from data sets and from prompts.
"""

from dataclasses import dataclass

import numpy as np
from keras import layers, ops, tree

from t2i_tpu.models.attention import Attention, rms_norm
from t2i_tpu.models.container import Container
from t2i_tpu.models.initializers import Normal, dense, embedding


@dataclass(frozen=True)
class ConditionSpec:
    """Describes the conditions of a data set.

    Attributes:
      fields: the shape, without the batch axis, and the dtype of each field, by its name.
      num_ids: the number of classes or the size of the vocabulary, if a field holds ids.
    """

    fields: dict[str, tuple[tuple[int, ...], str]]
    num_ids: int = 0

    @property
    def is_continuous(self) -> bool:
        """Whether conditions can be interpolated, because no field holds ids."""
        return all(dtype == "float32" for _, dtype in self.fields.values())

    def null(self, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch of null conditions."""
        return {
            name: np.zeros((batch_size, *shape), dtype)
            for name, (shape, dtype) in self.fields.items()
        }


def drop_conditions(condition: dict, keep):
    """Replace the conditions of some examples by the null condition.

    Args:
      condition: a batch of conditions.
      keep: [B], 1 or true for the examples that keep their condition.
    """

    def drop(values):
        mask = ops.cast(keep, values.dtype)
        return values * ops.reshape(mask, (-1, *[1] * (len(values.shape) - 1)))

    return tree.map_structure(drop, condition)


class Conditioner(Container):
    """Encodes conditions of one kind. Its `call` takes the fields of a condition by name.

    The result is a dict in the form that the network takes:

      vector     [B, D]
      sequence   [B, T, D], for cross-attention, if the conditioner has a sequence
      attend_to  bool [B, T], true for each token and false for padding, likewise

    Attributes:
      dim: width of the encoded vector.
      has_sequence: whether the result has a sequence to attend to.
    """

    has_sequence = False

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim

    @classmethod
    def from_spec(cls, spec: ConditionSpec, dim: int, **kwargs) -> "Conditioner":
        """Return the layer for a data set's conditions.

        Args:
          spec: describes the conditions.
          dim: width of the encoded vector. `EmbeddingProjection` ignores it.
          **kwargs: for the constructor.
        """
        raise NotImplementedError


class EmbeddingProjection(Conditioner):
    """Projects a precomputed embedding to half its width without normalizing it, as the baseline."""

    def __init__(self, dim: int, **kwargs):
        super().__init__(dim, **kwargs)
        self.project = dense(dim, name="project")

    @classmethod
    def from_spec(cls, spec, dim, **kwargs):
        ((embedding_dim,), _) = spec.fields["embedding"]
        return cls(embedding_dim // 2, **kwargs)

    def call(self, embedding):
        return {"vector": self.project(embedding)}


class EmbeddingConditioner(Conditioner):
    """Encodes the direction of a precomputed embedding, and 512 Fourier features of the direction.

    CLIP's embeddings span few directions, and a network is slow to learn high-frequency functions
    of its input (Tancik et al., 2020). The inner product of two prompts' random features (Rahimi and
    Recht, 2007) decays with their distance d as exp(-d**2 / (2 * 0.5**2)), which makes different
    meanings nearly orthogonal and keeps synonyms close. The frequencies are not trained.
    """

    num_frequencies, bandwidth = 256, 0.5

    def __init__(self, dim: int, **kwargs):
        super().__init__(dim, autocast=False, **kwargs)  # angles need float32
        self.project = dense(dim, name="project")

    @classmethod
    def from_spec(cls, spec, dim, **kwargs):
        return cls(dim, **kwargs)

    def build(self, shape):
        # A direction has RMS 1, so its length is sqrt(dimension).
        scale = 1.0 / (self.bandwidth * shape[-1] ** 0.5)
        self.frequencies = self.add_weight(
            shape=(shape[-1], self.num_frequencies),
            initializer=Normal(scale),
            trainable=False,
            name="frequencies",
        )
        super().build(shape)

    def call(self, embedding):
        direction = rms_norm(embedding)
        angles = ops.matmul(direction, ops.convert_to_tensor(self.frequencies, "float32"))
        waves = 2.0**0.5 * ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        return {"vector": self.project(ops.concatenate([direction, waves], axis=-1))}


class SequenceConditioner(Conditioner):
    """Encodes a precomputed embedding, and the text tower's states as a sequence to attend to."""

    has_sequence = True

    def __init__(self, dim: int, **kwargs):
        super().__init__(dim, autocast=False, **kwargs)  # see EmbeddingConditioner
        self.pooled = EmbeddingConditioner(dim, name="pooled")
        self.project = dense(dim, name="project")

    @classmethod
    def from_spec(cls, spec, dim, **kwargs):
        return cls(dim, **kwargs)

    def call(self, embedding, sequence):
        # After the text tower's layer norm, no state of a real token is zero.
        attend_to = ops.any(sequence != 0, axis=-1)
        states = self.project(rms_norm(sequence))
        vector = self.pooled(embedding)["vector"]
        return {"vector": vector, "sequence": states, "attend_to": attend_to}


class LabelConditioner(Conditioner):
    """Encodes a class label as a row of a table. Row 0 is the null condition."""

    def __init__(self, num_classes: int, dim: int, **kwargs):
        super().__init__(dim, **kwargs)
        self.table = embedding(num_classes + 1, dim, name="table")

    @classmethod
    def from_spec(cls, spec, dim, **kwargs):
        return cls(spec.num_ids, dim, **kwargs)

    def call(self, label):
        return {"vector": self.table(label)}


class TokenConditioner(Conditioner):
    """Encodes a prompt's tokens with a small transformer, which is trained with the denoiser."""

    has_sequence = True

    def __init__(self, vocab_size: int, length: int, dim: int, depth: int = 2, **kwargs):
        super().__init__(dim, **kwargs)
        self.table = embedding(vocab_size, dim, name="table")
        self.positions = embedding(length, dim, name="positions")
        self.blocks = [_TransformerBlock(dim, name=f"block{index}") for index in range(depth)]
        self.norm = layers.LayerNormalization(name="norm")

    @classmethod
    def from_spec(cls, spec, dim, **kwargs):
        ((length,), _) = spec.fields["tokens"]
        return cls(spec.num_ids, length, dim, **kwargs)

    def call(self, tokens):
        attend_to = tokens > 0
        x = self.table(tokens) + self.positions(ops.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, attend_to)
        x = self.norm(x)
        # The vector is the mean over the real tokens.
        present = ops.cast(attend_to, x.dtype)[..., None]
        pooled = ops.sum(x * present, axis=1) / ops.maximum(ops.sum(present, axis=1), 1.0)
        return {"vector": pooled, "sequence": x, "attend_to": attend_to}


class _TransformerBlock(Container):
    """A pre-norm transformer block: self-attention, then two dense layers."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = layers.LayerNormalization(name="norm1")
        self.attention = Attention(dim, name="attention")
        self.norm2 = layers.LayerNormalization(name="norm2")
        self.expand = dense(4 * dim, activation="gelu", name="expand")
        self.contract = dense(dim, kernel_initializer="zeros", name="contract")

    def call(self, x, attend_to):
        x = x + self.attention(self.norm1(x), attend_to=attend_to)
        return x + self.contract(self.expand(self.norm2(x)))


CONDITIONERS: dict[str, type[Conditioner]] = {
    "embedding": EmbeddingConditioner,
    "sequence": SequenceConditioner,
    "label": LabelConditioner,
    "tokens": TokenConditioner,
}
# The baseline's blocks cannot attend to a sequence, so they use only the encoded vector.
BASELINE_CONDITIONERS: dict[str, type[Conditioner]] = {
    "embedding": EmbeddingProjection,
    "label": LabelConditioner,
    "tokens": TokenConditioner,
}
