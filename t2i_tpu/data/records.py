"""Records: the examples of a data set, and their form inside a shard.

A shard is a TFRecord file of serialized tf.train.Example messages. Each has the features key, image
and caption and, if the manifest says so, label, embedding, tokens and sequence.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np
import tensorflow as tf

from t2i_tpu.data.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned image.

    Attributes:
      key: a text that is unique within the data set.
      image: pixels, uint8 [height, width, channels], with 1 or 3 channels.
      caption: the caption, or "" if there is none.
      label: index of the class, or None.
      embedding: embedding of the caption, float32 [dim], or None.
      tokens: token ids of the caption without padding, or None.
      sequence: the text tower's state of each token, float16 [tokens, width], or None.
    """

    key: str
    image: np.ndarray
    caption: str = ""
    label: int | None = None
    embedding: np.ndarray | None = None
    tokens: list[int] | None = None
    sequence: np.ndarray | None = None


def serialize(record: Record, image_format: str) -> bytes:
    """Return a record as a serialized example. Equal records give equal bytes."""
    # A protobuf map has no fixed order unless asked for.
    return to_example(record, image_format).SerializeToString(deterministic=True)


def to_example(record: Record, image_format: str) -> tf.train.Example:
    """Return a record as an example whose image is stored as raw bytes ("raw") or as PNG ("png")."""
    if image_format == "png":
        image = tf.io.encode_png(record.image, compression=9).numpy()
    else:
        image = record.image.tobytes()
    example = tf.train.Example()
    _set_bytes(example, "key", record.key.encode())
    _set_bytes(example, "image", image)
    _set_bytes(example, "caption", record.caption.encode())
    if record.label is not None:
        example.features.feature["label"].int64_list.value.append(record.label)
    add_text_features(example, record.embedding, record.tokens, record.sequence)
    return example


def add_text_features(
    example: tf.train.Example,
    embedding: np.ndarray | None,
    tokens: Sequence[int] | None,
    sequence: np.ndarray | None,
) -> None:
    """Add embedding, tokens and sequence of the caption to an example; see `Record` for each."""
    if embedding is not None:
        _set_bytes(example, "embedding", np.asarray(embedding, "<f4").tobytes())
    if tokens is not None:
        example.features.feature["tokens"].int64_list.value.extend(tokens)
    if sequence is not None:
        _set_bytes(example, "sequence", np.asarray(sequence, "<f2").tobytes())


def _set_bytes(example: tf.train.Example, name: str, value: bytes) -> None:
    example.features.feature[name].bytes_list.value.append(value)


def parse_records(
    serialized: tf.Tensor, manifest: Manifest, names: Collection[str] | None = None
) -> dict[str, tf.Tensor]:
    """Parse a batch of serialized examples.

    Args:
      serialized: serialized examples, string [N].
      manifest: the manifest of the data set, which determines the features and their shapes.
      names: the features to parse, or None for all.

    Returns:
      The features by name: key and caption, string [N]; image, uint8 [N, H, W, C]; embedding,
      float32 [N, dim]; label, int32 [N]; and, padded with 0, tokens, int32 [N, context_length], and
      sequence, float16 [N, context_length, width].
    """
    parsers = {name: tf.io.FixedLenFeature([], tf.string) for name in ("key", "image", "caption")}
    if manifest.embedding:
        parsers["embedding"] = tf.io.FixedLenFeature([], tf.string)
    if manifest.sequence:
        parsers["sequence"] = tf.io.FixedLenFeature([], tf.string)
    if manifest.label_names:
        parsers["label"] = tf.io.FixedLenFeature([], tf.int64)
    if manifest.tokens:
        parsers["tokens"] = tf.io.RaggedFeature(tf.int64)
    wanted = {name: parsers[name] for name in parsers if names is None or name in names}
    examples = tf.io.parse_example(serialized, wanted)
    decoders = {
        "image": _decode_images,
        "embedding": _decode_embeddings,
        "sequence": _decode_sequences,
        "label": _decode_labels,
        "tokens": _pad_tokens,
    }
    for name in decoders.keys() & examples.keys():
        examples[name] = decoders[name](examples[name], manifest)
    return examples


def _decode_images(images: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    shape = [manifest.image_size, manifest.image_size, manifest.channels]
    if manifest.image_format == "raw":
        pixels = tf.ensure_shape(tf.io.decode_raw(images, tf.uint8), [None, math.prod(shape)])
        return tf.reshape(pixels, [-1, *shape])
    return tf.map_fn(
        lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=manifest.channels), shape),
        images,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )


def _decode_embeddings(embeddings: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    values = tf.io.decode_raw(embeddings, tf.float32)
    return tf.ensure_shape(values, [None, manifest.embedding.dim])


def _decode_sequences(sequences: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    shape = [manifest.sequence.context_length, manifest.sequence.width]
    # decode_raw can pad int16 to a fixed length, but not float16.
    num_bytes = 2 * math.prod(shape)
    values = tf.io.decode_raw(sequences, tf.int16, fixed_length=num_bytes)
    return tf.reshape(tf.bitcast(values, tf.float16), [-1, *shape])


def _decode_labels(labels: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    return tf.cast(labels, tf.int32)


def _pad_tokens(tokens: tf.RaggedTensor, manifest: Manifest) -> tf.Tensor:
    shape = [None, manifest.tokens.context_length]
    return tf.cast(tokens.to_tensor(shape=shape), tf.int32)
