"""What a data set is: its records, its shards, and the manifest that binds them together.

A data set is a folder (local or gs://) of TFRecord shards and one `manifest.json`, written last.
The manifest fixes S streams per split. Slot j of a global batch reads stream j mod S, so the order
of the examples is a property of the data set and the seed, not of the machines that read it.
"""

import dataclasses
import json
import posixpath

import numpy as np
import tensorflow as tf

from t2i_tpu.data import gcs
from t2i_tpu.errors import UserError

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned image.

    Attributes:
      key: unique within the data set.
      image: uint8 [height, width, channels], channels 1 or 3.
      caption: text; empty where there is none.
      label: class index, or None.
      embedding: float32 [dim], or None.
      tokens: token ids without padding, or None.
    """

    key: str
    image: np.ndarray
    caption: str = ""
    label: int | None = None
    embedding: np.ndarray | None = None
    tokens: list[int] | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file, named relative to the manifest."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class EmbeddingContract:
    """What made the embeddings; sampling must use the same."""

    encoder: str  # as `make_encoder` takes it: "embedded", "ViT-L-14/openai"
    weights_sha256: str
    dim: int
    normalized: bool


@dataclasses.dataclass(frozen=True)
class TokenContract:
    """What made the token ids; id 0 is padding."""

    encoder: str
    vocab_size: int
    context_length: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contract of a data set; `splits` maps a name to its streams of shards."""

    name: str
    image_size: int
    channels: int
    splits: dict[str, tuple[tuple[Shard, ...], ...]]
    embedding: EmbeddingContract | None = None
    tokens: TokenContract | None = None
    label_names: tuple[str, ...] | None = None
    format_version: int = FORMAT_VERSION

    def num_examples(self, split: str) -> int:
        return sum(shard.num_examples for stream in self.streams(split) for shard in stream)

    def num_streams(self, split: str = "train") -> int:
        return len(self.streams(split))

    def streams(self, split: str) -> tuple[tuple[Shard, ...], ...]:
        if split not in self.splits:
            raise UserError(
                f"data set {self.name!r} has no split {split!r}, only {', '.join(self.splits)}"
            )
        return self.splits[split]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises KeyError, TypeError or ValueError where `text` is not a manifest."""
        fields = json.loads(text)
        if fields["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format_version {fields['format_version']}, this program reads {FORMAT_VERSION}"
            )
        fields["splits"] = {
            split: tuple(tuple(Shard(**shard) for shard in stream) for stream in streams)
            for split, streams in fields["splits"].items()
        }
        for name, kind in (("embedding", EmbeddingContract), ("tokens", TokenContract)):
            if fields[name] is not None:
                fields[name] = kind(**fields[name])
        if fields["label_names"] is not None:
            fields["label_names"] = tuple(fields["label_names"])
        return cls(**fields)


def read_manifest(folder: str) -> Manifest:
    """Reads `folder`/manifest.json and checks that every shard is there at its full size."""
    path = posixpath.join(folder, MANIFEST_NAME)
    if not tf.io.gfile.exists(path):
        gcs.check_bucket(folder)
        raise UserError(
            f"no data set at {folder!r}: {MANIFEST_NAME} is missing; check the path or prepare it"
        )
    try:
        with tf.io.gfile.GFile(path) as file:
            manifest = Manifest.from_json(file.read())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a manifest that this version reads: {error!r}; prepare it again"
        ) from error
    for streams in manifest.splits.values():
        for shard in (shard for stream in streams for shard in stream):
            _check_size(posixpath.join(folder, shard.file), shard.num_bytes)
    return manifest


def _check_size(path: str, num_bytes: int) -> None:
    try:
        found = tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        raise UserError(
            f"shard {path} is missing; restore it or prepare the data set again"
        ) from None
    if found != num_bytes:
        raise UserError(
            f"shard {path} has {found} bytes, its manifest says {num_bytes}: "
            "it was cut or replaced; restore it or prepare the data set again"
        )


def serialize(record: Record) -> bytes:
    """Record -> tf.train.Example bytes; the image as lossless PNG."""
    features = {
        "key": _bytes(record.key.encode()),
        "image": _bytes(tf.io.encode_png(record.image, compression=9).numpy()),
        "caption": _bytes(record.caption.encode()),
    }
    if record.label is not None:
        features["label"] = _ints([record.label])
    if record.embedding is not None:
        features["embedding"] = _bytes(np.asarray(record.embedding, "<f4").tobytes())
    if record.tokens is not None:
        features["tokens"] = _ints(record.tokens)
    # A protobuf map has no fixed order unless asked for; equal records must give equal bytes.
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor, manifest: Manifest) -> dict[str, tf.Tensor]:
    """A scalar string -> key, caption, image uint8 [H, W, C] and what else the manifest promises:
    embedding float32 [dim], tokens int32 [context_length] padded with 0, label int32 []."""
    string = tf.io.FixedLenFeature([], tf.string)
    features = {"key": string, "image": string, "caption": string}
    if manifest.embedding:
        features["embedding"] = string
    if manifest.label_names:
        features["label"] = tf.io.FixedLenFeature([], tf.int64)
    if manifest.tokens:
        length = manifest.tokens.context_length
        features["tokens"] = tf.io.RaggedFeature(tf.int64)
    example = tf.io.parse_single_example(serialized, features)
    image = tf.io.decode_png(example["image"], channels=manifest.channels)
    example["image"] = tf.ensure_shape(
        image, [manifest.image_size, manifest.image_size, manifest.channels]
    )
    if manifest.embedding:
        values = tf.io.decode_raw(example["embedding"], tf.float32)
        example["embedding"] = tf.ensure_shape(values, [manifest.embedding.dim])
    if manifest.label_names:
        example["label"] = tf.cast(example["label"], tf.int32)
    if manifest.tokens:
        tokens = tf.cast(example["tokens"][:length], tf.int32)
        example["tokens"] = tf.ensure_shape(
            tf.pad(tokens, [[0, length - tf.shape(tokens)[0]]]), [length]
        )
    return example


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(values: list[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
