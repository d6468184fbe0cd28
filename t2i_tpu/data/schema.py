"""What a data set is: its records, its shards, and the manifest that binds them together.

A data set is a folder (local or gs://) of TFRecord shards and one `manifest.json`, written last.
The manifest fixes S streams per split. Slot j of a global batch reads stream j mod S, so the order
of the examples is a property of the data set and the seed, not of the machines that read it.
"""

import dataclasses
import json
import math
import posixpath
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import gcs

MANIFEST_NAME = "manifest.json"
TEXT_TOWER = "text_tower"  # folder beside the manifest
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
      sequence: float16 [tokens, width], a state of the text tower for each token, or None.
    """

    key: str
    image: np.ndarray
    caption: str = ""
    label: int | None = None
    embedding: np.ndarray | None = None
    tokens: list[int] | None = None
    sequence: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file, named relative to the manifest."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """Any other file, named relative to the manifest."""

    file: str
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class EmbeddingContract:
    """What made the embeddings; sampling must use the same."""

    encoder: str  # as `make_encoder` takes it: "embedded", "ViT-L-14/openai"
    weights_sha256: str  # empty where it is not known: embeddings that came with the data
    dim: int
    normalized: bool
    dtype: str = "float32"
    pooled: bool = True  # one vector a caption


@dataclasses.dataclass(frozen=True)
class TokenContract:
    """What made the token ids; id 0 is padding."""

    encoder: str
    vocab_size: int
    context_length: int
    tokenizer_sha256: str = ""  # as TextEncoder has it; empty where it was not recorded


@dataclasses.dataclass(frozen=True)
class SequenceContract:
    """What made the states: `TextEncoder.encode_sequences`, by the encoder of the embeddings."""

    encoder: str
    weights_sha256: str
    width: int
    context_length: int
    dtype: str = "float16"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contract of a data set; `splits` maps a name to its streams of shards."""

    name: str
    image_size: int
    channels: int
    splits: dict[str, tuple[tuple[Shard, ...], ...]]
    embedding: EmbeddingContract | None = None
    tokens: TokenContract | None = None
    sequence: SequenceContract | None = None
    label_names: tuple[str, ...] | None = None
    image_format: str = "png"  # png | raw: uint8 as it is, a third larger and far faster to read
    text_tower: tuple[StoredFile, ...] | None = None  # what `encoders.OnnxEncoder` reads
    preparation: dict[str, Any] | None = None  # how `data.prepare` made it and what was left out
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

    def files(self) -> list[Shard | StoredFile]:
        """All that lies beside the manifest and belongs to the data set."""
        streams = [stream for split in self.splits.values() for stream in split]
        return [*(shard for stream in streams for shard in stream), *(self.text_tower or ())]

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
            split: tuple(tuple(_typed(Shard, shard) for shard in stream) for stream in streams)
            for split, streams in fields["splits"].items()
        }
        for name, kind in _CONTRACTS.items():
            if fields.get(name) is not None:
                fields[name] = _typed(kind, fields[name])
        if fields["label_names"] is not None:
            fields["label_names"] = tuple(fields["label_names"])
        if fields.get("text_tower") is not None:
            fields["text_tower"] = tuple(_typed(StoredFile, one) for one in fields["text_tower"])
        manifest = cls(**fields)
        manifest._check()
        return manifest

    def _check(self):
        """Raises ValueError where a value is of no data set."""
        _check_value("name", self.name, str)
        _check_value("image_size", self.image_size, int)
        for name in self.label_names or ():
            _check_value("label_names", name, str)
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels!r}")
        if self.image_format not in ("png", "raw"):
            raise ValueError(f"image_format is {self.image_format!r}")
        for one in self.text_tower or ():
            if not re.fullmatch(rf"{TEXT_TOWER}/\w[\w.]*", one.file):
                raise ValueError(f"text_tower has a file {one.file!r}"[:200])
        for name in ("text_tower", "sequence"):
            if getattr(self, name) and not self.embedding:
                raise ValueError(f"{name} without embedding")
        if self.sequence and self.sequence.dtype != "float16":
            raise ValueError(f"sequence has dtype {self.sequence.dtype!r}")
        if not all(streams and all(streams) for streams in self.splits.values()):
            raise ValueError("a split has no stream, or a stream no shard")


_CONTRACTS = {
    "embedding": EmbeddingContract,
    "tokens": TokenContract,
    "sequence": SequenceContract,
}


def _typed(kind, values):
    """A dataclass of plain fields out of JSON."""
    made = kind(**values)
    for field in dataclasses.fields(kind):
        _check_value(field.name, getattr(made, field.name), field.type)
    return made


def _check_value(name, value, kind):
    if type(value) is not kind or (kind is int and not 0 < value < 2**53):
        raise ValueError(f"{name} is {value!r}"[:200])


def read_manifest(folder: str, check_shards: bool = True) -> Manifest:
    """Reads `folder`/manifest.json and checks that every shard is there at its full size."""
    path = posixpath.join(folder, MANIFEST_NAME)
    if not tf.io.gfile.exists(path):
        gcs.check_bucket(folder)
        raise UserError(
            f"no data set at {folder!r}: {MANIFEST_NAME} is missing; check the path or prepare it"
        )
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            manifest = Manifest.from_json(file.read().decode())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a manifest that this version reads: {error!r}; prepare it again"
        ) from error
    for one in manifest.files() if check_shards else ():
        _check_size(posixpath.join(folder, one.file), one.num_bytes)
    return manifest


def _check_size(path: str, num_bytes: int) -> None:
    try:
        found = tf.io.gfile.stat(path).length
    except (tf.errors.NotFoundError, ValueError):  # no file is named "\0"
        raise UserError(f"{path} is missing; restore it or prepare the data set again") from None
    if found != num_bytes:
        raise UserError(
            f"{path} has {found} bytes, its manifest says {num_bytes}: "
            "it was cut or replaced; restore it or prepare the data set again"
        )


def serialize(record: Record, image_format: str) -> bytes:
    """Record -> the bytes of its `to_example`; equal records give equal bytes."""
    # A protobuf map has no fixed order unless asked for.
    return to_example(record, image_format).SerializeToString(deterministic=True)


def to_example(record: Record, image_format: str) -> tf.train.Example:
    """The image as it is ("raw") or as lossless PNG ("png")."""
    if image_format == "png":
        image = tf.io.encode_png(record.image, compression=9).numpy()
    else:
        image = record.image.tobytes()
    example = tf.train.Example()
    _set(example, "key", record.key.encode())
    _set(example, "image", image)
    _set(example, "caption", record.caption.encode())
    if record.label is not None:
        example.features.feature["label"].int64_list.value.append(record.label)
    add_text(example, record.embedding, record.tokens, record.sequence)
    return example


def add_text(
    example: tf.train.Example,
    embedding: np.ndarray | None,
    tokens: Sequence[int] | None,
    sequence: np.ndarray | None,
) -> None:
    """Puts into an example what an encoder made of its caption."""
    if embedding is not None:
        _set(example, "embedding", np.asarray(embedding, "<f4").tobytes())
    if tokens is not None:
        example.features.feature["tokens"].int64_list.value.extend(tokens)
    if sequence is not None:
        _set(example, "sequence", np.asarray(sequence, "<f2").tobytes())


def _set(example: tf.train.Example, name: str, value: bytes) -> None:
    example.features.feature[name].bytes_list.value.append(value)


def parse(
    serialized: tf.Tensor, manifest: Manifest, names: Collection[str] | None = None
) -> dict[str, tf.Tensor]:
    """Strings [N] -> key, caption, image uint8 [N, H, W, C] and what else the manifest promises:
    embedding float32 [N, dim], tokens int32 [N, context_length] and sequence float16 [N,
    context_length, width], both padded with 0, label int32 [N]; of these only `names`, if given."""
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("key", "image", "caption")}
    if manifest.embedding:
        features["embedding"] = tf.io.FixedLenFeature([], tf.string)
    if manifest.sequence:
        features["sequence"] = tf.io.FixedLenFeature([], tf.string)
    if manifest.label_names:
        features["label"] = tf.io.FixedLenFeature([], tf.int64)
    if manifest.tokens:
        features["tokens"] = tf.io.RaggedFeature(tf.int64)
    wanted = {name: features[name] for name in features if names is None or name in names}
    examples = tf.io.parse_example(serialized, wanted)
    if "image" in examples:
        examples["image"] = _decode(examples["image"], manifest)
    if "embedding" in examples:
        values = tf.io.decode_raw(examples["embedding"], tf.float32)
        examples["embedding"] = tf.ensure_shape(values, [None, manifest.embedding.dim])
    if "sequence" in examples:
        shape = [manifest.sequence.context_length, manifest.sequence.width]
        # TensorFlow pads no float16.
        size = 2 * math.prod(shape)
        values = tf.io.decode_raw(examples["sequence"], tf.int16, fixed_length=size)
        examples["sequence"] = tf.reshape(tf.bitcast(values, tf.float16), [-1, *shape])
    if "label" in examples:
        examples["label"] = tf.cast(examples["label"], tf.int32)
    if "tokens" in examples:
        shape = [None, manifest.tokens.context_length]
        examples["tokens"] = tf.cast(examples["tokens"].to_tensor(shape=shape), tf.int32)
    return examples


def _decode(images: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    """Strings [N] -> uint8 [N, H, W, C]."""
    shape = [manifest.image_size, manifest.image_size, manifest.channels]
    if manifest.image_format == "raw":
        pixels = tf.ensure_shape(tf.io.decode_raw(images, tf.uint8), [None, math.prod(shape)])
        return tf.reshape(pixels, [-1, *shape])
    return tf.map_fn(
        lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=manifest.channels), shape),
        images,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )
