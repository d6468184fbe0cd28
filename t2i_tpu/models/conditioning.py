"""From what an example is conditioned on to what the network reads.

A raw condition is an embedding [B, dim]; a label [B] counted from 1; token ids [B, T] padded with 0;
or an embedding and the text tower's states of the tokens [T, width] padded with 0, laid end to end
[B, dim + T * width]. The null condition of classifier-free guidance is zeros, whatever the kind.
"""

from typing import NamedTuple

from keras import initializers, layers, ops

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


class EmbeddingProjection(Container):
    """A precomputed embedding as it is, through one matrix: the baseline's."""

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(dim, name="project")

    def call(self, embedding):
        return Condition(self.project(embedding))


class EmbeddingConditioner(Container):
    """A precomputed embedding, raw or normalised: its direction and 512 Fourier features of it.

    CLIP's embeddings fill few directions, and a network learns slowly what changes fast with its
    input (Tancik et al., 2020). The inner product of two prompts' random features (Rahimi and
    Recht, 2007) falls off with their distance d as exp(-d**2 / (2 * 0.5**2)), so that what differs
    in meaning is nearly orthogonal and synonyms are not. The frequencies are not trained.
    """

    num_frequencies, bandwidth = 256, 0.5

    def __init__(self, dim: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # angles need float32
        self.project = layers.Dense(dim, name="project")

    def build(self, shape):
        # The direction comes with RMS 1, so with length sqrt(dimension).
        scale = 1.0 / (self.bandwidth * shape[-1] ** 0.5)
        self.frequencies = self.add_weight(
            shape=(shape[-1], self.num_frequencies),
            initializer=initializers.RandomNormal(stddev=scale, seed=0),
            trainable=False,
            name="frequencies",
        )
        super().build(shape)

    def call(self, embedding):
        direction = rms_norm(embedding)
        angles = ops.matmul(direction, ops.convert_to_tensor(self.frequencies, "float32"))
        waves = 2.0**0.5 * ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        return Condition(self.project(ops.concatenate([direction, waves], axis=-1)))


class SequenceConditioner(Container):
    """A precomputed embedding, and the states of its text tower to attend to."""

    def __init__(self, length: int, width: int, dim: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as EmbeddingConditioner
        self.shape = (length, width)
        self.pooled = EmbeddingConditioner(dim, name="pooled")
        self.project = layers.Dense(dim, name="project")

    def call(self, condition):
        length, width = self.shape
        start = condition.shape[1] - length * width
        states = ops.reshape(condition[:, start:], (-1, length, width))
        mask = ops.any(states != 0, axis=-1)  # no token's state is zero after a layer norm
        pooled = self.pooled(condition[:, :start])
        return Condition(pooled.vector, self.project(rms_norm(states)), mask)


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
