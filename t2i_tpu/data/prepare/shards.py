"""Writes the shards of a preparation, or keeps those that an interrupted run wrote."""

import collections
import posixpath
import re

import tensorflow as tf

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.writer import StreamWriter
from t2i_tpu.storage import files, paths

_KEY_NAME = "shards.txt"  # in the work folder: identifies what the shards are written from
_SHARD_PATTERN = re.compile(
    rf"(train|heldout)-\d{{4,}}-\d{{5,}}\.tfrecord({re.escape(paths.PARTIAL_SUFFIX)})?"
)
_DEFAULT_STREAMS = 16


def keep_only_shards_of(key: str, output: str, work: str) -> None:
    """Remove the shards of an interrupted run, unless they were written for the same key.

    No glob is used, because `output` may contain characters that have a meaning in a glob.
    """
    path = posixpath.join(work, _KEY_NAME)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            if file.read() == key:
                return
    for name in files.list_names(output):
        if _SHARD_PATTERN.fullmatch(name):
            tf.io.gfile.remove(posixpath.join(output, name))
    files.write(path, key)


class ShardWriter:
    """Distributes the examples of each split over its streams in turn.

    Unless the settings give the number of streams, a split with few examples has fewer than usual.

    Attributes:
      counts: number of examples of each split.
    """

    def __init__(self, output: str, settings: Settings):
        self.output, self.settings = output, settings
        self.streams, self.counts = {}, collections.Counter()
        # The first examples of each split, until it is known that there are enough for all streams.
        self.waiting = collections.defaultdict(list)

    def write(self, split: str, serialized: bytes) -> None:
        """Write a serialized example to a split."""
        self.counts[split] += 1
        if split in self.streams:
            streams = self.streams[split]
            streams[(self.counts[split] - 1) % len(streams)].write(serialized)
            return
        num_streams = self.settings.num_streams or _DEFAULT_STREAMS
        self.waiting[split].append(serialized)
        if self.counts[split] == num_streams:
            self._open_streams(split, num_streams)

    def close(self) -> dict[str, tuple[tuple[manifest_lib.Shard, ...], ...]]:
        """Finish the shards and return them."""
        for split, waiting in list(self.waiting.items()):
            # The number of streams is a power of two, because it must divide the batch size.
            self._open_streams(split, 1 << len(waiting).bit_length() - 1)
        return {
            split: tuple(stream.close() for stream in self.streams[split])
            for split in sorted(self.streams)
        }

    def _open_streams(self, split: str, num_streams: int) -> None:
        """Create the streams of a split, and write the examples that were waiting."""
        streams = self.streams[split] = [
            StreamWriter(self.output, f"{split}-{index:04d}", self.settings.shard_size, keep=True)
            for index in range(num_streams)
        ]
        for index, serialized in enumerate(self.waiting.pop(split)):
            streams[index % num_streams].write(serialized)
