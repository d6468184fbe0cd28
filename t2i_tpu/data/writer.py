"""Writes records as a data set: shards and a manifest.

Equal records and settings give equal bytes.
"""

import collections
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from t2i_tpu.data.manifest import (
    MANIFEST_NAME,
    EmbeddingContract,
    Manifest,
    SequenceContract,
    Shard,
    TokenContract,
)
from t2i_tpu.data.records import Record, serialize
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths

# Examples per shard. The reader holds two shards of each stream in memory to shuffle them.
SHARD_SIZE = 1024


def write_dataset(
    output: str,
    splits: Mapping[str, Iterable[Record]],
    *,
    name: str,
    num_streams: int = 16,
    shard_size: int = SHARD_SIZE,
    embedding: EmbeddingContract | None = None,
    tokens: TokenContract | None = None,
    sequence: SequenceContract | None = None,
    label_names: Sequence[str] | None = None,
    streams_of: Callable[[str, Record], range] | None = None,
    image_format: str = "raw",
) -> Manifest:
    """Write a data set into a folder, and return its manifest.

    A shard gets its name only when it is complete, and the manifest is written last, so a folder that
    has a manifest is a complete data set.

    Args:
      output: the folder, local or gs://.
      splits: {split: its records}.
      name: name of the data set.
      num_streams: number of streams per split. The records of a split go to them in turn.
      shard_size: number of examples per shard.
      embedding, tokens, sequence: the contracts of these features, or None if there are none.
      label_names: names of the classes, or None if the records have no labels.
      streams_of: (split, record) -> the range of streams that the record may go to; None means all.
        Records with the same range go to its streams in turn. Every stream gives equally many examples
        to a batch, so the ranges determine the weights of a mixture.
      image_format: "raw", or "png", which takes less space.

    Raises:
      UserError: `output` already holds a data set, a key is not unique, images differ in shape, a
        record lacks a feature of the data set, or a split has fewer records than streams.
    """
    _create_folder(output)
    # Write the shards.
    checker = _RecordChecker(embedding, tokens, sequence, label_names)
    streams = {}
    for split, records in splits.items():
        writers = _make_writers(output, split, num_streams, shard_size)
        checked = checker.iter_checked(records)
        streams[split] = _write_split(writers, split, checked, streams_of, image_format)

    # Write the manifest.
    size, _, channels = checker.image_shape
    manifest = Manifest(
        name=name,
        image_size=size,
        channels=channels,
        splits=streams,
        embedding=embedding,
        tokens=tokens,
        sequence=sequence,
        label_names=tuple(label_names) if label_names else None,
        image_format=image_format,
    )
    files.write(posixpath.join(output, MANIFEST_NAME), manifest.to_json())
    return manifest


def _create_folder(output: str) -> None:
    """Create the folder of a data set. Raises UserError if it holds one already."""
    if tf.io.gfile.exists(posixpath.join(output, MANIFEST_NAME)):
        raise UserError(
            f"{output!r} already holds a data set; choose another folder or delete it first"
        )
    tf.io.gfile.makedirs(output)


def _make_writers(
    output: str, split: str, num_streams: int, shard_size: int
) -> list["StreamWriter"]:
    prefixes = [f"{split}-{index:04d}" for index in range(num_streams)]
    return [StreamWriter(output, prefix, shard_size) for prefix in prefixes]


class _RecordChecker:
    """Checks that all records of a data set have unique keys and the same features and shapes.

    Attributes:
      image_shape: (height, width, channels), or None before the first record.
    """

    def __init__(
        self,
        embedding: EmbeddingContract | None,
        tokens: TokenContract | None,
        sequence: SequenceContract | None,
        label_names: Sequence[str] | None,
    ):
        self.embedding, self.tokens = embedding, tokens
        self.sequence, self.label_names = sequence, label_names
        self.keys, self.image_shape = set(), None

    def iter_checked(self, records: Iterable[Record]) -> Iterable[Record]:
        """Yield the records. Raises UserError at the first record that is not valid."""
        for record in records:
            if record.key in self.keys:
                raise UserError(
                    f"key {record.key!r} occurs twice; keys must be unique in a data set"
                )
            self.keys.add(record.key)
            self._check_image(record)
            self._check_features(record)
            yield record

    def _check_image(self, record: Record) -> None:
        shape, dtype = record.image.shape, record.image.dtype
        self.image_shape = self.image_shape or shape
        is_square = len(shape) == 3 and shape[0] == shape[1] and shape[2] in (1, 3)
        if not is_square or shape != self.image_shape or dtype != np.uint8:
            raise UserError(
                f"image {record.key!r} is {dtype} {shape}; images must be uint8 and square, with 1 "
                f"or 3 channels, and have the shape of the first image, {self.image_shape}"
            )

    def _check_features(self, record: Record) -> None:
        """Raise UserError if a record lacks a feature of the data set."""
        key, shape = record.key, np.shape(record.embedding)
        if self.embedding and shape != (self.embedding.dim,):
            raise UserError(
                f"record {key!r} has an embedding of shape {shape}; the shape must be "
                f"({self.embedding.dim},)"
            )
        if self.tokens and record.tokens is None:
            raise UserError(f"record {key!r} has no tokens; all records of the data set need them")
        if self.sequence:
            self._check_sequence(key, np.shape(record.sequence))
        if self.label_names and record.label not in range(len(self.label_names)):
            raise UserError(
                f"record {key!r} has label {record.label}; labels must be 0 to "
                f"{len(self.label_names) - 1}"
            )

    def _check_sequence(self, key: str, shape: tuple[int, ...]) -> None:
        length, width = self.sequence.context_length, self.sequence.width
        if len(shape) != 2 or shape[0] not in range(1, length + 1) or shape[1] != width:
            raise UserError(
                f"record {key!r} has a sequence of shape {shape}; the shape must be "
                f"(1 to {length}, {width})"
            )


def _write_split(
    writers: Sequence["StreamWriter"],
    split: str,
    records: Iterable[Record],
    streams_of: Callable[[str, Record], range] | None,
    image_format: str,
) -> tuple[tuple[Shard, ...], ...]:
    """Write the records of a split, and return the shards of each stream.

    The arguments are as in `write_dataset`.
    """
    num_written = collections.Counter()  # by range of streams
    for record in records:
        streams = streams_of(split, record) if streams_of else range(len(writers))
        stream = streams[num_written[streams] % len(streams)]
        writers[stream].write(serialize(record, image_format))
        num_written[streams] += 1
    shards = tuple(writer.close() for writer in writers)
    if not all(shards):
        raise UserError(
            f"split {split!r} has fewer records than streams ({len(writers)}); lower num_streams"
        )
    return shards


class StreamWriter:
    """Writes serialized examples to the shards of one stream.

    The shards are FOLDER/PREFIX-00000.tfrecord and so on.

    Args:
      folder: the folder of the shards, local or gs://.
      prefix: the start of their names.
      shard_size: number of examples per shard.
      keep: whether to keep a shard that exists instead of writing it again. It must have been written
        from the same examples, by a run that was interrupted.
    """

    def __init__(self, folder: str, prefix: str, shard_size: int, keep: bool = False):
        self.folder, self.prefix, self.shard_size, self.keep = folder, prefix, shard_size, keep
        self.shards, self.count, self.writer = [], 0, None

    def write(self, serialized: bytes) -> None:
        """Write an example."""
        if self.count == 0 and not (self.keep and tf.io.gfile.exists(self._path())):
            self.writer = tf.io.TFRecordWriter(self._path() + paths.PARTIAL_SUFFIX)
        if self.writer:
            self.writer.write(serialized)
        self.count += 1
        if self.count == self.shard_size:
            self._finish_shard()

    def close(self) -> tuple[Shard, ...]:
        """Finish the last shard, and return all shards."""
        if self.count:
            self._finish_shard()
        return tuple(self.shards)

    def _path(self) -> str:
        """Return the path of the current shard."""
        return posixpath.join(self.folder, f"{self.prefix}-{len(self.shards):05d}.tfrecord")

    def _finish_shard(self) -> None:
        """Close the current shard, give it its name, and add it to `shards`."""
        path = self._path()
        if self.writer:
            self.writer.close()
            tf.io.gfile.rename(path + paths.PARTIAL_SUFFIX, path, overwrite=True)
        num_bytes, digest = files.measure(path)
        self.shards.append(Shard(posixpath.basename(path), self.count, num_bytes, digest))
        self.writer, self.count = None, 0
