"""Reads a few examples of a split without an input pipeline. The cost does not grow with the split."""

import itertools
import posixpath
from collections.abc import Iterator, Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from t2i_tpu.data import shard_file
from t2i_tpu.data.manifest import Manifest, Shard
from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest

# Number of examples in which captions are looked for. A start must not read a complete data set.
MAX_SEARCHED = 10_000


class FirstExamples:
    """Finds examples among the first ones of a split, in the order in which they were written.

    Raises:
      UserError: there is no such split.
    """

    def __init__(self, folder: str, manifest: Manifest, split: str, on_damage: str):
        self.folder, self.split, self.on_damage = folder, split, on_damage
        self.streams = manifest.streams(split)
        self._repaired = {}

    def read(self, count: int, captions: Sequence[str] = ()) -> list[bytes]:
        """Return the first serialized examples with the given captions, and then other first examples.

        Args:
          count: the maximum number of examples to return.
          captions: captions whose examples come first. They are looked for in the first MAX_SEARCHED
            examples.

        Raises:
          UserError: a caption was not found, or a record is damaged and `on_damage` is "raise".
        """
        # Limit the search for captions. Without captions, `count` limits what is read.
        limit = max(count, MAX_SEARCHED) if captions else None
        found, others, seen = {}, [], {}
        missing, records = set(captions), itertools.islice(self._iter_records(), limit)
        while missing or len(found) + len(others) < count:
            shard, index, record = next(records, (None, 0, None))
            if not shard:
                break
            caption = _read_caption(record.data) if captions else None
            seen[caption] = None
            if caption in missing or len(others) < count:
                data = self._verify(shard, index, record)
                caption = _read_caption(data) if captions else None
                if caption in missing:
                    found[caption] = data
                    missing.remove(caption)
                else:
                    others.append(data)
        for caption in captions:
            if caption not in found:
                raise self._make_error(caption, [known for known in seen if known])
        return ([found[caption] for caption in captions] + others)[:count]

    def _iter_records(self) -> Iterator[tuple[Shard, int, shard_file.StoredRecord]]:
        """Yield each record with its shard and its index there, one from each stream in turn."""
        readers = [self._iter_stream(shards) for shards in self.streams]
        while readers:
            for reader in list(readers):
                item = next(reader, None)
                if item is None:
                    readers.remove(reader)
                else:
                    yield item

    def _iter_stream(self, shards):
        for shard in shards:
            records = shard_file.iter_records(self._get_path(shard), shard.num_bytes)
            # A damaged length hides the records after it.
            for index in range(shard.num_examples):
                yield shard, index, next(records, shard_file.HIDDEN)

    def _verify(self, shard: Shard, index: int, record: shard_file.StoredRecord) -> bytes:
        """Return the data of a record, or what replaces it if it is damaged."""
        if record.is_intact():
            return record.data
        if shard.file not in self._repaired:
            self._repaired[shard.file] = shard_file.read_shard(
                self._get_path(shard), shard.num_examples, self.on_damage
            )
        return self._repaired[shard.file][index].numpy()

    def _get_path(self, shard: Shard) -> str:
        return posixpath.join(self.folder, shard.file)

    def _make_error(self, caption: str, seen: list[str]) -> UserError:
        num_examples = sum(shard.num_examples for stream in self.streams for shard in stream)
        num_searched = min(MAX_SEARCHED, num_examples)
        return UserError(
            f"config.preview.captions: none of the first {num_searched} {self.split} examples of "
            f"{self.folder} has the caption {caption!r}{suggest(caption, seen)}; choose captions of "
            f"these examples, such as {', '.join(map(repr, seen[:2]))}, or show the first examples "
            "with --config.preview.captions='()'"
        )


def _read_caption(example: bytes) -> str | None:
    """Return the caption of a serialized example, or None if it is damaged."""
    try:
        features = tf.train.Example.FromString(example).features.feature
        return features["caption"].bytes_list.value[0].decode()
    except (DecodeError, IndexError, UnicodeDecodeError):
        return None
