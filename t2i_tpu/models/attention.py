"""Attention with normalized queries and keys, over image positions or over a prompt's tokens."""

from keras import ops

from t2i_tpu.models.container import Container
from t2i_tpu.models.initializers import dense

HEAD_DIM = 64


class Attention(Container):
    """Multi-head scaled dot-product attention (Vaswani et al., 2017).

    Queries and keys are RMS-normalized per head (Henry et al., 2020; Dehghani et al., 2023), which
    keeps the logits bounded in half precision. The output projection starts at zero.
    """

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.head_dim = min(HEAD_DIM, width)
        self.heads = max(1, width // HEAD_DIM)
        inner = self.heads * self.head_dim
        self.query = dense(inner, use_bias=False, name="query")
        self.key = dense(inner, use_bias=False, name="key")
        self.value = dense(inner, use_bias=False, name="value")
        self.out = dense(width, kernel_initializer="zeros", name="out")

    def build(self, *_):
        shape = (self.head_dim,)
        self.query_gain = self.add_weight(shape=shape, initializer="ones", name="query_gain")
        self.key_gain = self.add_weight(shape=shape, initializer="ones", name="key_gain")
        self.built = True

    def call(self, x, context=None, attend_to=None):
        """Return the result of attention, [B, T, C].

        Args:
          x: [B, T, C], the positions that attend.
          context: [B, S, D], the positions to attend to. None means x itself.
          attend_to: bool [B, S], false for positions of the context to ignore. None ignores none.
        """
        context = x if context is None else context
        query = rms_norm(self._heads(self.query(x))) * self.query_gain
        key = rms_norm(self._heads(self.key(context))) * self.key_gain
        value = self._heads(self.value(context))
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * self.head_dim**-0.5
        logits = ops.cast(logits, "float32")
        if attend_to is not None:
            logits = ops.where(attend_to[:, None, None, :], logits, -1e9)
        weights = ops.cast(ops.softmax(logits), value.dtype)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, x.shape[1], self.heads * self.head_dim)))

    def _heads(self, x):
        """Reshape [B, T, heads * head_dim] to [B, heads, T, head_dim]."""
        x = ops.reshape(x, (-1, x.shape[1], self.heads, self.head_dim))
        return ops.transpose(x, (0, 2, 1, 3))


def rms_norm(x):
    """Divide x by its root mean square over the last axis. Zero stays zero."""
    wide = ops.cast(x, "float32")
    return x * ops.cast(
        ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + 1e-6), x.dtype
    )
