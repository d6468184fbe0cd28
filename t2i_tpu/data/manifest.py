"""The manifest of a data set: its shards, and the origin of its embeddings, tokens and sequences.

A data set is a folder (local or gs://) of TFRecord shards and one `manifest.json`, written last.
It divides each split into S streams. Slot j of a global batch reads stream j mod S, so the order of
the examples depends only on the data set and the seed, not on the machines that read it.
"""

import dataclasses
import json
import posixpath
import re
from typing import Any

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import gcs, json_files, listing

MANIFEST_NAME = "manifest.json"
# The config in the workdir of a run, which has a copy of its data set's manifest.
_RUN_CONFIG_NAME = "config.json"
TEXT_TOWER = "text_tower"  # a folder next to the manifest
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file. `file` is its path relative to the manifest."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file that is not a shard. `file` is its path relative to the manifest."""

    file: str
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class EmbeddingContract:
    """Identifies the encoder of the embeddings. Sampling must use the same one.

    Attributes:
      encoder: the argument of `make_encoder`, for example "embedded" or "ViT-L-14/openai".
      weights_sha256: hash of the encoder's weights, or "" if it is unknown because the embeddings
        came with the images.
      dim: number of values in an embedding.
      normalized: whether each embedding has norm 1.
      dtype: always float32.
      pooled: always true, which means that there is one vector per caption.
    """

    encoder: str
    weights_sha256: str
    dim: int
    normalized: bool
    dtype: str = "float32"
    pooled: bool = True


@dataclasses.dataclass(frozen=True)
class TokenContract:
    """Identifies the tokenizer of the token ids. Id 0 is padding.

    Attributes:
      encoder: the argument of `make_encoder`.
      vocab_size: number of token ids; all ids are smaller.
      context_length: maximum number of tokens in a caption.
      tokenizer_sha256: the `TextEncoder` attribute of that name, or "" if it was not recorded.
    """

    encoder: str
    vocab_size: int
    context_length: int
    tokenizer_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class SequenceContract:
    """Identifies the encoder of the sequences, which is also the encoder of the embeddings.

    Attributes:
      encoder: the argument of `make_encoder`.
      weights_sha256: hash of the encoder's weights.
      width: number of values in the state of a token.
      context_length: maximum number of tokens in a caption.
      dtype: always float16.
    """

    encoder: str
    weights_sha256: str
    width: int
    context_length: int
    dtype: str = "float16"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Describes a data set.

    Attributes:
      name: name of the data set.
      image_size: height and width of the stored images in pixels.
      channels: 1 or 3.
      splits: {split: its streams}; a stream is a tuple of shards.
      embedding, tokens, sequence: the contracts that identify the encoder of these features, or
        None if the records do not have them.
      label_names: names of the classes, or None if there are no labels.
      image_format: "png", or "raw", which takes a third more space but is read much faster.
      text_tower: the files that `text.OnnxEncoder` reads, or None if there are none.
      preparation: settings and outcomes of the preparation that made the data set, or None if it
        was not made by data/prepare.
      format_version: version of the format of the manifest and the shards.
    """

    name: str
    image_size: int
    channels: int
    splits: dict[str, tuple[tuple[Shard, ...], ...]]
    embedding: EmbeddingContract | None = None
    tokens: TokenContract | None = None
    sequence: SequenceContract | None = None
    label_names: tuple[str, ...] | None = None
    image_format: str = "png"
    text_tower: tuple[StoredFile, ...] | None = None
    preparation: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    def num_examples(self, split: str) -> int:
        """Return the number of examples in a split."""
        return sum(shard.num_examples for stream in self.streams(split) for shard in stream)

    def num_streams(self, split: str = "train") -> int:
        """Return the number of streams of a split."""
        return len(self.streams(split))

    def streams(self, split: str) -> tuple[tuple[Shard, ...], ...]:
        """Return the shards of each stream of a split. Raises UserError if it does not exist."""
        if split not in self.splits:
            raise UserError(
                f"data set {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}"
            )
        return self.splits[split]

    def files(self) -> list[Shard | StoredFile]:
        """Return every file of the data set except the manifest."""
        streams = [stream for split in self.splits.values() for stream in split]
        return [*(shard for stream in streams for shard in stream), *(self.text_tower or ())]

    def to_json(self) -> str:
        """Return the manifest as JSON, which is the content of its file."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Return a manifest from the content of its file. Raises DamagedJson if it is not valid."""
        return json_files.parse(text, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        """Return a manifest from parsed JSON. Raises ValueError or another error if it is invalid."""
        if fields["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {fields['format_version']}, but this version of t2i_tpu reads "
                f"{FORMAT_VERSION}"
            )
        fields["splits"] = {
            split: tuple(
                tuple(_parse_dataclass(Shard, shard) for shard in stream) for stream in streams
            )
            for split, streams in fields["splits"].items()
        }
        for name, kind in _CONTRACTS.items():
            if fields.get(name) is not None:
                fields[name] = _parse_dataclass(kind, fields[name])
        if fields["label_names"] is not None:
            fields["label_names"] = tuple(fields["label_names"])
        if fields.get("text_tower") is not None:
            fields["text_tower"] = tuple(
                _parse_dataclass(StoredFile, file) for file in fields["text_tower"]
            )
        manifest = cls(**fields)
        manifest._check()
        return manifest

    def _check(self):
        """Raise ValueError if a value is impossible."""
        _check_value("name", self.name, str)
        _check_value("image_size", self.image_size, int)
        for name in self.label_names or ():
            _check_value("label_names", name, str)
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels!r}")
        if self.image_format not in ("png", "raw"):
            raise ValueError(f"image_format is {self.image_format!r}")
        for stored in self.text_tower or ():
            if not re.fullmatch(rf"{TEXT_TOWER}/\w[\w.]*", stored.file):
                raise ValueError(f"text_tower has a file {stored.file!r}"[:200])
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


def _parse_dataclass(kind, values):
    """Return a dataclass of plain fields from parsed JSON. Raises if a field has a wrong type."""
    parsed = kind(**values)
    for field in dataclasses.fields(kind):
        _check_value(field.name, getattr(parsed, field.name), field.type)
    return parsed


def _check_value(name, value, kind):
    """Raise ValueError if a value has the wrong type, or is an integer that is not positive."""
    if type(value) is not kind or (kind is int and not 0 < value < 2**53):
        raise ValueError(f"{name} is {value!r}"[:200])


def read_manifest(folder: str, check_shards: bool = True) -> Manifest:
    """Read the manifest of the data set in a folder, local or gs://.

    Args:
      folder: the folder of the data set.
      check_shards: whether to check that every file exists and has its full size.

    Raises:
      UserError: there is no data set, its manifest cannot be read, or a file is missing or truncated.
    """
    path = posixpath.join(folder, MANIFEST_NAME)
    if not tf.io.gfile.exists(path):
        gcs.check_bucket(folder)
        raise UserError(
            f"no data set at {folder!r}: {MANIFEST_NAME} is missing; check the path or prepare it"
        )
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            manifest = Manifest.from_json(file.read())
    except json_files.DamagedJson as error:
        raise UserError(
            f"{path} is not a manifest that this version of t2i_tpu reads ({error}); prepare the "
            "data set again"
        ) from error
    if check_shards:
        _check_files(folder, manifest)
    return manifest


def check_not_workdir(folder: str, manifest: Manifest) -> None:
    """Raise UserError if a folder is the workdir of a run, so it has a manifest but no shards."""
    shard = next(iter(manifest.splits.values()))[0][0]
    if tf.io.gfile.exists(posixpath.join(folder, shard.file)):
        return
    if tf.io.gfile.exists(posixpath.join(folder, _RUN_CONFIG_NAME)):
        raise UserError(
            f"{folder!r} is the workdir of a run, not a data set; use the folder that data.source in its "
            f"{_RUN_CONFIG_NAME} names"
        )


def _check_files(folder: str, manifest: Manifest) -> None:
    """Raise UserError if a file of a data set is missing or has a different size."""
    stored_files = manifest.files()
    infos = listing.find_files(folder, [stored.file for stored in stored_files])
    for stored in stored_files:
        path, info = posixpath.join(folder, stored.file), infos.get(stored.file)
        if info is None:
            check_not_workdir(folder, manifest)
            raise UserError(f"{path} is missing; restore it or prepare the data set again")
        if info.num_bytes != stored.num_bytes:
            raise UserError(
                f"{path} has {info.num_bytes} bytes, but its manifest says {stored.num_bytes}: the "
                "file was truncated or replaced; restore it or prepare the data set again"
            )
