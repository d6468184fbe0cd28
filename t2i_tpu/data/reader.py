"""Shards -> batches whose order is a function of (seed, step), on any number of hosts.

Slot j of the global batch of step t reads stream s = j mod S at position (t * B + j) // S. A stream
goes through its own shards epoch after epoch, in an order and with a shuffle of each shard's
records that are keyed by (seed, stream, epoch). So a run resumes by arithmetic: whole shards are
skipped by the manifest's counts. A host reads only the streams of its own slots.
"""

import contextlib
import dataclasses
import math
import posixpath
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu import random
from t2i_tpu.data import schema, shard_file
from t2i_tpu.data.schema import Manifest
from t2i_tpu.errors import UserError

_ROUND = 256  # examples that are put together at a time: operations cost microseconds each
_PARSED = 64  # examples parsed at a time: a whole shard would be one great allocation


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of shards opened for one conditioning at one image size.

    Raises:
      UserError: the data set has no such conditioning, or its images cannot be brought to the size.
    """

    folder: str
    manifest: Manifest
    conditioning: str  # embedding | label | tokens | sequence
    image_size: int
    on_damage: str = "raise"  # raise | skip, as `shard_file.read_shard` takes it

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
            remedy = ", or prepare it with --sequence" * (self.conditioning == "sequence")
            raise UserError(
                f"config.model.conditioning is {self.conditioning!r}; {self.folder} holds no such "
                f"feature: choose another conditioning{remedy}"
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
        check_batch_divides(global_batch_size, len(streams), num_hosts)
        per_stream = global_batch_size // len(streams)
        mine = range(host, len(streams), num_hosts)
        rounds = max(1, _ROUND // (per_stream * len(mine)))  # steps that are read together
        readers = [
            self._stream(streams[index], seed, index, start_step * per_stream, rounds * per_stream)
            for index in mine
        ]
        places = np.arange(per_stream)[:, None] * len(streams) + np.array(mine)
        slots = tf.data.Dataset.from_tensors(np.tile(places.astype(np.int32).ravel(), rounds))
        batches = tf.data.Dataset.zip((tf.data.Dataset.zip(tuple(readers)), slots.repeat()))
        batches = batches.map(self._batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.rebatch(per_replica_batch_size, drop_remainder=True).prefetch(4)

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
            # Most are not wanted, and decoding an image takes longest.
            head = schema.parse(serialized[None], self.manifest, ("caption",))
            caption = head["caption"][0].numpy().decode()
            if caption not in captions and len(rest) >= count:
                continue
            names = ("key", "image", *self._conditions())
            batch = schema.parse(serialized[None], self.manifest, names)
            example = {
                "caption": caption,
                "key": batch["key"][0].numpy().decode(),
                "image": self._resized(batch["image"])[0].numpy(),
                "condition": self.condition(batch)[0].numpy(),
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

    def condition(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """The raw conditions of `models.conditioning`: labels count from 1, zeros mean none."""
        values = batch[self.conditioning]
        if self.conditioning == "sequence":
            states = tf.reshape(tf.cast(values, tf.float32), [-1, math.prod(values.shape[1:])])
            return tf.concat([batch["embedding"], states], axis=1)
        return values + 1 if self.conditioning == "label" else values

    def _batch(self, blocks, slots):
        """[streams][block] -> slot after slot."""

        def in_turn(name):
            stacked = tf.stack([block[name] for block in blocks], axis=1)
            return tf.reshape(stacked, [-1, *stacked.shape[2:]])

        return {"image": in_turn("image"), "condition": in_turn("condition"), "slot": slots}

    def _resized(self, images):
        factor = self.manifest.image_size // self.image_size
        if factor == 1:
            return images
        size, channels = self.image_size, self.manifest.channels
        blocks = tf.reshape(tf.cast(images, tf.int32), [-1, size, factor, size, factor, channels])
        total = tf.reduce_sum(blocks, axis=[2, 4])
        return tf.cast((total + factor * factor // 2) // (factor * factor), tf.uint8)

    def _stream(self, shards, seed, stream, position, block):
        """image [block, H, W, C] and condition of one stream, endlessly, from `position` on."""
        counts = np.array([shard.num_examples for shard in shards], np.int64)
        files = tf.constant([posixpath.join(self.folder, shard.file) for shard in shards])

        def shard_order(epoch):
            return _permutation(seed, stream, epoch, 0, len(shards))

        epoch, offset = divmod(position, int(counts.sum()))
        ends = np.cumsum(counts[shard_order(epoch).numpy()])
        visit = int(np.searchsorted(ends, offset, side="right"))
        skipped = offset - (int(ends[visit - 1]) if visit else 0)
        first = epoch * len(shards) + visit

        def shuffled(visit):
            epoch = visit // len(shards)
            shard = shard_order(epoch)[visit % len(shards)]
            count = tf.constant(counts)[shard]
            order = _permutation(seed, stream, epoch, shard + 1, count)
            order = order[tf.where(visit == first, skipped, 0) :]
            return self._shard(files[shard], count).map(lambda records: (records, order))

        def parsed(records, order):
            some = tf.data.Dataset.from_tensor_slices(order).batch(_PARSED)
            return some.map(lambda order: self._parse(tf.gather(records, order)))

        visits = tf.data.Dataset.counter(first, dtype=tf.int64).flat_map(shuffled)
        # The next shard is read while this one is used.
        return visits.prefetch(1).flat_map(parsed).rebatch(block, drop_remainder=True)

    def _shard(self, file, count):
        """A data set of one element: the shard's serialized examples, string [count]."""
        records = tf.data.TFRecordDataset(file, buffer_size=1 << 20)
        if self.on_damage == "raise":  # `translate_data_errors` finds out which
            return records.batch(count)

        def read(file, count):
            return shard_file.read_shard(file.numpy().decode(), int(count), self.on_damage)

        def mended(file, count):
            return tf.ensure_shape(tf.py_function(read, [file, count], tf.string), [None])

        whole = records.batch(count, drop_remainder=True).ignore_errors()  # none if damaged
        return whole.concatenate(tf.data.Dataset.from_tensors((file, count)).map(mended)).take(1)

    def _conditions(self) -> tuple[str, ...]:
        """The features that `condition` reads."""
        return (
            ("embedding", "sequence") if self.conditioning == "sequence" else (self.conditioning,)
        )

    def _parse(self, records):
        parsed = schema.parse(records, self.manifest, ("image", *self._conditions()))
        return {"image": self._resized(parsed["image"]), "condition": self.condition(parsed)}

    def _in_order(self, split) -> Iterator[tf.Tensor]:
        """Serialized records of a split in the order in which they were written."""
        readers = [self._of_stream(shards) for shards in self.manifest.streams(split)]
        while readers:
            for reader in list(readers):
                record = next(reader, None)
                if record is None:
                    readers.remove(reader)
                else:
                    yield record

    def _of_stream(self, shards) -> Iterator[tf.Tensor]:
        for shard in shards:
            path, done = posixpath.join(self.folder, shard.file), 0
            try:
                for record in tf.data.TFRecordDataset(path):
                    yield record
                    done += 1
            except tf.errors.DataLossError:
                yield from shard_file.read_shard(path, shard.num_examples, self.on_damage)[done:]


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


def check_batch_divides(global_batch_size: int, num_streams: int, num_hosts: int) -> None:
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
def translate_data_errors(dataset: Dataset) -> Iterator[None]:
    """A record whose checksum is wrong is a UserError that names it: its shard has the right size,
    so that nothing was seen when the data set was opened. So is one that does not parse."""
    try:
        yield
    except UnicodeDecodeError as error:  # TensorFlow's message quotes the record
        raise _unparsable(dataset, "it is no tf.train.Example") from error
    except tf.errors.InvalidArgumentError as error:
        # Out of `batches` or `examples`, not out of a step.
        if not re.search("IteratorGetNext|Parse|DecodePng|DecodeRaw|EnsureShape", str(error)):
            raise
        told = re.search(r"UserError: (.+)$", error.message, re.MULTILINE)
        lines = [line for line in error.message.splitlines() if line.strip()]
        raise (
            UserError(told[1]) if told else _unparsable(dataset, lines[0][:200] if lines else "?")
        ) from error
    except tf.errors.OpError as error:
        told = re.search(r"UserError: (.+)$", error.message, re.MULTILINE)  # by `on_damage=skip`
        if told:
            raise UserError(told[1]) from error
        if not isinstance(error, tf.errors.DataLossError):
            raise
        for streams in dataset.manifest.splits.values():
            for shard in (shard for stream in streams for shard in stream):
                path = posixpath.join(dataset.folder, shard.file)
                shard_file.check_shard(path, shard.num_examples)
        raise


def _unparsable(dataset, reason):
    return UserError(
        f"a record in {dataset.folder} is not what its manifest promises ({reason}); prepare the "
        "data set again"
    )


def open_dataset(
    folder: str, conditioning: str, image_size: int, on_damage: str = "raise"
) -> Dataset:
    """Opens a folder of shards (local or gs://); see `Dataset`."""
    return Dataset(folder, schema.read_manifest(folder), conditioning, image_size, on_damage)
