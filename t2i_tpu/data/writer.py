"""Records -> shards. Equal records and settings give equal bytes."""

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
from t2i_tpu.storage import files

# Examples; the reader holds two shards of each stream in memory to shuffle them.
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
    streams_of: Callable[[str, Record], range] | None = None,  # (split, record) -> where it may go
    image_format: str = "raw",  # png: smaller, for what ships with the package
) -> Manifest:
    """Writes a data set into the folder `output` (local or gs://) and returns its manifest.

    Record i of a split goes to stream i mod num_streams; with `streams_of`, record i of those that
    share a range of streams to its stream i mod its length. Every stream gives as much to a batch,
    so few records in many streams are seen more often: the streams weigh a mixture.

    Shards get their final name when they are whole and the manifest is written last, so a folder
    with a manifest is a whole data set.

    Raises:
      UserError: `output` holds a data set already, a key comes twice, images differ in shape, a
        record lacks what the manifest promises, or a split has fewer records than streams.
    """
    manifest_path = posixpath.join(output, MANIFEST_NAME)
    if tf.io.gfile.exists(manifest_path):
        raise UserError(
            f"{output!r} already holds a data set; choose another folder or delete it first"
        )
    tf.io.gfile.makedirs(output)
    checks = _Checks(embedding, tokens, sequence, label_names)
    written = {
        split: _write_split(
            [
                StreamWriter(output, f"{split}-{index:04d}", shard_size)
                for index in range(num_streams)
            ],
            split,
            checks.watch(records),
            streams_of,
            image_format,
        )
        for split, records in splits.items()
    }
    size, _, channels = checks.image_shape
    manifest = Manifest(
        name=name,
        image_size=size,
        channels=channels,
        splits=written,
        embedding=embedding,
        tokens=tokens,
        sequence=sequence,
        label_names=tuple(label_names) if label_names else None,
        image_format=image_format,
    )
    files.write(manifest_path, manifest.to_json())
    return manifest


class _Checks:
    """What must hold over all the records of a data set."""

    def __init__(self, embedding, tokens, sequence, label_names):
        self.embedding, self.tokens = embedding, tokens
        self.sequence, self.label_names = sequence, label_names
        self.keys, self.image_shape = set(), None

    def watch(self, records: Iterable[Record]) -> Iterable[Record]:
        for record in records:
            if record.key in self.keys:
                raise UserError(
                    f"key {record.key!r} comes twice; keys must be unique in a data set"
                )
            self.keys.add(record.key)
            self._check_image(record)
            self._check_promises(record)
            yield record

    def _check_image(self, record: Record) -> None:
        shape, dtype = record.image.shape, record.image.dtype
        self.image_shape = self.image_shape or shape
        square = len(shape) == 3 and shape[0] == shape[1] and shape[2] in (1, 3)
        if not square or shape != self.image_shape or dtype != np.uint8:
            raise UserError(
                f"image {record.key!r} is {dtype} {shape}, wanted uint8, square, of 1 or 3 "
                f"channels and as the first, {self.image_shape}"
            )

    def _check_promises(self, record: Record) -> None:
        """What the manifest promises of every record must be in it."""
        key, shape = record.key, np.shape(record.embedding)
        if self.embedding and shape != (self.embedding.dim,):
            raise UserError(
                f"record {key!r} has an embedding of shape {shape}, wanted ({self.embedding.dim},)"
            )
        if self.tokens and record.tokens is None:
            raise UserError(f"record {key!r} has no tokens in a data set of tokens")
        if self.sequence:
            self._check_sequence(key, np.shape(record.sequence))
        if self.label_names and record.label not in range(len(self.label_names)):
            raise UserError(
                f"record {key!r} has label {record.label}, wanted 0 to {len(self.label_names) - 1}"
            )

    def _check_sequence(self, key: str, shape: tuple[int, ...]) -> None:
        length, width = self.sequence.context_length, self.sequence.width
        if len(shape) != 2 or shape[0] not in range(1, length + 1) or shape[1] != width:
            raise UserError(
                f"record {key!r} has a sequence of shape {shape}, wanted (1 to {length}, {width})"
            )


def _write_split(streams, split, records, streams_of, image_format):
    dealt = collections.Counter()
    for record in records:
        mine = streams_of(split, record) if streams_of else range(len(streams))
        streams[mine[dealt[mine] % len(mine)]].write(serialize(record, image_format))
        dealt[mine] += 1
    shards = tuple(stream.close() for stream in streams)
    if not all(shards):
        raise UserError(
            f"split {split!r} has fewer records than streams ({len(streams)}); "
            "ask for fewer streams"
        )
    return shards


class StreamWriter:
    """Serialized examples -> the shards of one stream, FOLDER/PREFIX-00000.tfrecord and on.

    With `keep`, a shard that is there already is not written again: a run that was interrupted had
    the same examples.
    """

    def __init__(self, folder: str, prefix: str, shard_size: int, keep: bool = False):
        self.folder, self.prefix, self.shard_size, self.keep = folder, prefix, shard_size, keep
        self.shards, self.count, self.writer = [], 0, None

    def write(self, serialized: bytes) -> None:
        if self.count == 0 and not (self.keep and tf.io.gfile.exists(self._path())):
            self.writer = tf.io.TFRecordWriter(self._path() + ".tmp")
        if self.writer:
            self.writer.write(serialized)
        self.count += 1
        if self.count == self.shard_size:
            self._finish()

    def close(self) -> tuple[Shard, ...]:
        if self.count:
            self._finish()
        return tuple(self.shards)

    def _path(self) -> str:
        return posixpath.join(self.folder, f"{self.prefix}-{len(self.shards):05d}.tfrecord")

    def _finish(self) -> None:
        path = self._path()
        if self.writer:
            self.writer.close()
            tf.io.gfile.rename(path + ".tmp", path, overwrite=True)
        num_bytes, digest = files.measure(path)
        self.shards.append(Shard(posixpath.basename(path), self.count, num_bytes, digest))
        self.writer, self.count = None, 0
