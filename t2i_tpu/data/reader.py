"""Shards -> batches whose order is a function of (seed, step), on any number of hosts.

Slot j of the global batch of step t reads stream s = j mod S at position (t * B + j) // S. A stream
goes through its own shards epoch after epoch, in an order and with a shuffle of each shard's
records that are keyed by (seed, stream, epoch). So a run resumes by arithmetic: whole shards are
skipped by the manifest's counts. A host reads only the streams of its own slots.
"""

import contextlib
import dataclasses
import posixpath
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data import schema
from t2i_tpu.data.schema import Manifest
from t2i_tpu.diffusion import random
from t2i_tpu.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of shards opened for one conditioning at one image size.

    Raises:
      UserError: the data set has no such conditioning, or its images cannot be brought to the size.
    """

    folder: str
    manifest: Manifest
    conditioning: str  # embedding | label | tokens
    image_size: int

    def __post_init__(self):
        stored = self.manifest.image_size
        if stored % self.image_size:
            raise UserError(
                f"config.data.image_size is {self.image_size}; {self.folder} holds images of {stored}, "
                f"so it must be {stored} or a whole fraction of it"
            )
        if not getattr(
            self.manifest, "label_names" if self.conditioning == "label" else self.conditioning
        ):
            raise UserError(
                f"config.model.conditioning is {self.conditioning!r}; {self.folder} holds no such feature"
            )

    def batches(
        self,
        seed: int,
        global_batch_size: int,
        per_replica_batch_size: int,
        start_step: int = 0,
        host: int = 0,  # of num_hosts: reads slots host, host + num_hosts, ...
        num_hosts: int = 1,
    ) -> tf.data.Dataset:
        """The endless training examples of one host, from `start_step` on, a replica's batch at a time.

        Elements: image uint8 [b, H, W, C], condition [b, ...] as `condition` gives it, slot int32
        [b] (position in the global batch), with b = per_replica_batch_size.

        Raises:
          UserError: the streams don't divide the batch, or the hosts the streams.
        """
        streams = self.manifest.streams("train")
        check_divides(global_batch_size, len(streams), num_hosts)
        per_stream = global_batch_size // len(streams)
        mine = range(host, len(streams), num_hosts)
        readers = [
            self._stream(streams[index], seed, index, start_step * per_stream) for index in mine
        ]
        rounds = tf.data.Dataset.zip(tuple(readers)).map(lambda *records: tf.stack(records))
        slots = tf.data.Dataset.from_tensor_slices(
            np.array(
                [[turn * len(streams) + index for index in mine] for turn in range(per_stream)],
                np.int32,
            )
        )
        examples = tf.data.Dataset.zip((rounds, slots.repeat())).unbatch()
        examples = examples.map(
            self._example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        batches = examples.batch(per_replica_batch_size, drop_remainder=True)
        return batches.prefetch(4)

    def examples(
        self, split: str, count: int, captions: tuple[str, ...] = ()
    ) -> list[dict[str, np.ndarray]]:
        """The first `count` examples of a split as dicts of caption, key, image and condition; those
        with the given captions come first.

        Raises:
          UserError: a caption is not in the split.
        """
        found, rest = {}, []
        for serialized in self._in_order(split):
            if len(rest) >= count and len(found) == len(captions):
                break
            example = schema.parse(serialized, self.manifest)
            caption = example["caption"].numpy().decode()
            if caption not in captions and len(rest) >= count:
                continue
            example = {
                "caption": caption,
                "key": example["key"].numpy().decode(),
                "image": self._resized(example["image"]).numpy(),
                "condition": self.condition(example).numpy(),
            }
            if caption in captions:
                found.setdefault(caption, example)
            else:
                rest.append(example)
        missing = [caption for caption in captions if caption not in found]
        if missing:
            raise UserError(
                f"config.preview.captions: the {split} split of {self.folder} has no {missing[0]!r}"
            )
        return ([found[caption] for caption in captions] + rest)[:count]

    def condition(self, example: dict[str, tf.Tensor]) -> tf.Tensor:
        """The raw condition of `models.conditioning`: labels count from 1, zeros mean none."""
        value = example[self.conditioning]
        return value + 1 if self.conditioning == "label" else value

    def _example(self, serialized, slot):
        example = schema.parse(serialized, self.manifest)
        image = self._resized(example["image"])
        return {"image": image, "condition": self.condition(example), "slot": slot}

    def _resized(self, image):
        factor = self.manifest.image_size // self.image_size
        if factor == 1:
            return image
        size, channels = self.image_size, self.manifest.channels
        blocks = tf.reshape(tf.cast(image, tf.int32), [size, factor, size, factor, channels])
        total = tf.reduce_sum(blocks, axis=[1, 3])
        return tf.cast((total + factor * factor // 2) // (factor * factor), tf.uint8)

    def _stream(self, shards, seed, stream, position):
        """Serialized records of one stream, endlessly, from `position` on."""
        counts = np.array([shard.num_examples for shard in shards], np.int64)
        files = tf.constant([posixpath.join(self.folder, shard.file) for shard in shards])

        def shard_order(epoch):
            return _permutation(seed, stream, epoch, 0, len(shards))

        epoch, offset = divmod(position, int(counts.sum()))
        ends = np.cumsum(counts[shard_order(epoch).numpy()])
        visit = int(np.searchsorted(ends, offset, side="right"))
        skipped = int(ends[visit - 1]) if visit else 0

        def shuffled_records(visit):
            epoch = visit // len(shards)
            shard = shard_order(epoch)[visit % len(shards)]
            whole = tf.data.TFRecordDataset(files[shard], buffer_size=1 << 20).batch(
                int(counts.max())
            )
            order = _permutation(seed, stream, epoch, shard + 1, tf.constant(counts)[shard])
            return whole.map(lambda records: tf.gather(records, order)).unbatch()

        visits = tf.data.Dataset.counter(epoch * len(shards) + visit, dtype=tf.int64)
        return visits.flat_map(shuffled_records).skip(offset - skipped)

    def _in_order(self, split) -> Iterator[tf.Tensor]:
        """Serialized records of a split in the order in which they were written."""
        readers = []
        for shards in self.manifest.streams(split):
            readers.append(
                iter(tf.data.TFRecordDataset([posixpath.join(self.folder, s.file) for s in shards]))
            )
        while readers:
            for reader in list(readers):
                record = next(reader, None)
                if record is None:
                    readers.remove(reader)
                else:
                    yield record


def _permutation(seed, stream, epoch, use, size):
    """A shuffle of range(size), int32 [size], keyed by (seed, stream, epoch, use)."""
    scalars = (tf.cast(value, tf.int64) for value in (stream, epoch, use, size))
    return _keyed_shuffle(seed, *scalars)


@tf.function(autograph=False)  # traced once, not once a stream
def _keyed_shuffle(seed, stream, epoch, use, size):
    key = random.keys(seed, random.Purpose.SHUFFLE, epoch, tf.reshape(stream, [1]))
    counter = tf.range(tf.cast(size, tf.int32))
    use = tf.fill(tf.shape(counter), tf.cast(use, tf.uint32))
    draws = random.threefry2x32(key, (use, tf.cast(counter, tf.uint32)))[0]
    return tf.argsort(tf.cast(draws, tf.int64), stable=True)


def check_divides(global_batch_size: int, num_streams: int, num_hosts: int) -> None:
    if global_batch_size % num_streams:
        raise UserError(
            f"config.train.global_batch_size is {global_batch_size}; the data set has {num_streams} streams, "
            f"so it must be a multiple of {num_streams}"
        )
    if num_streams % num_hosts:
        raise UserError(
            f"{num_hosts} hosts cannot share {num_streams} streams evenly; use a number of hosts that divides "
            f"{num_streams} or prepare the data set with more streams"
        )


@contextlib.contextmanager
def damage_told(dataset: Dataset) -> Iterator[None]:
    """A record whose checksum is wrong is a UserError: its shard has the right size, so that
    nothing was seen when the data set was opened."""
    try:
        yield
    except tf.errors.DataLossError as error:
        lines = error.message.splitlines()
        reason = next((line for line in lines if "record" in line), lines[0])
        raise UserError(
            f"a shard in {dataset.folder} is damaged ({reason}); find it by the manifest's sha256 "
            "and restore it, or prepare the data set again"
        ) from error


def open_dataset(folder: str, conditioning: str, image_size: int) -> Dataset:
    """Opens a folder of shards (local or gs://); see `Dataset`."""
    return Dataset(folder, schema.read_manifest(folder), conditioning, image_size)
