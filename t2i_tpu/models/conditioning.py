"""From what an example is conditioned on to what the network reads.

A raw condition is an embedding [B, dim], a label [B] counted from 1, or token ids [B, T] padded
with 0. The null condition of classifier-free guidance is zeros, whatever the kind.
"""

from typing import NamedTuple

from keras import layers, ops

from t2i_tpu.models.attention import Attention, rms_norm
from t2i_tpu.models.container import Container


class Condition(NamedTuple):
    vector: object  # [B, D]
    sequence: object = None  # [B, T, D], for cross-attention
    mask: object = None  # bool [B, T], true where there is a token


def drop(condition, keep):
    """`condition` where keep [B] is 1 and the null condition where it is 0."""
    keep = ops.cast(keep, condition.dtype)
    return condition * ops.reshape(keep, (-1, *[1] * (len(condition.shape) - 1)))


class EmbeddingConditioner(Container):
    """A precomputed embedding, raw or normalised: brought to unit RMS if `normalize`, projected."""

    def __init__(self, dim: int, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.normalize = normalize
        self.project = layers.Dense(dim, name="project")

    def call(self, embedding):
        return Condition(self.project(rms_norm(embedding) if self.normalize else embedding))


class LabelConditioner(Container):
    """A class label through a learned embedding; row 0 is the null condition."""

    def __init__(self, num_classes: int, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(num_classes + 1, dim, name="table")

    def call(self, label):
        return Condition(self.table(label))


class TokenConditioner(Container):
    """A small pre-norm transformer over the prompt's tokens, trained with the denoiser."""

    def __init__(self, vocab_size: int, length: int, dim: int, depth: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(vocab_size, dim, name="table")
        self.positions = layers.Embedding(length, dim, name="positions")
        self.blocks = [_TransformerBlock(dim, name=f"block{index}") for index in range(depth)]
        self.norm = layers.LayerNormalization(name="norm")

    def call(self, tokens):
        mask = tokens > 0
        x = self.table(tokens) + self.positions(ops.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        present = ops.cast(mask, x.dtype)[..., None]
        pooled = ops.sum(x * present, axis=1) / ops.maximum(ops.sum(present, axis=1), 1.0)
        return Condition(pooled, x, mask)


class _TransformerBlock(Container):
    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = layers.LayerNormalization(name="norm1")
        self.attention = Attention(dim, name="attention")
        self.norm2 = layers.LayerNormalization(name="norm2")
        self.expand = layers.Dense(4 * dim, activation="gelu", name="expand")
        self.contract = layers.Dense(dim, kernel_initializer="zeros", name="contract")

    def call(self, x, attend_to):
        x = x + self.attention(self.norm1(x), attend_to=attend_to)
        return x + self.contract(self.expand(self.norm2(x)))
