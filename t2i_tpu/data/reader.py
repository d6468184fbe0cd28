"""Reads shards: batches for training in the order of data/order.py, and examples for previews.

The manifest says how many records each shard has, so a resumed run computes where to continue and
skips shards without opening them.
"""

import dataclasses
import posixpath
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data import shard_file
from t2i_tpu.data.conditions import Conditioning, get_conditioning
from t2i_tpu.data.first_examples import FirstExamples
from t2i_tpu.data.manifest import Manifest, Shard, read_manifest
from t2i_tpu.data.order import StreamOrder, check_batch_divides
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.records import parse_records
from t2i_tpu.errors import UserError

# Number of examples to interleave in one operation, because each operation costs microseconds.
_EXAMPLES_PER_INTERLEAVE = 256
# Number of examples to parse in one operation. A complete shard would be one huge allocation.
_PARSE_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A folder of shards, opened for one conditioning at one image size.

    Attributes:
      folder: the folder, local or gs://.
      manifest: the manifest of the data set.
      conditioning: a key of `data.conditions.CONDITIONINGS`.
      image_size: the height and width to which images are downscaled.
      on_damage: "raise" or "skip"; see `shard_file.read_shard`.
      errors: exceptions that Python code inside the input pipeline raised. TensorFlow passes on only
        their messages, so `translate_data_errors` takes the exceptions from here.

    Raises:
      UserError: the data set lacks the features of the conditioning, or `image_size` does not divide
        the size of its images.
    """

    folder: str
    manifest: Manifest
    conditioning: str
    image_size: int
    on_damage: str = "raise"
    errors: list[UserError] = dataclasses.field(default_factory=list, compare=False)

    def __post_init__(self):
        stored = self.manifest.image_size
        if stored % self.image_size:
            raise UserError(
                f"config.data.image_size is {self.image_size}; {self.folder} holds images of {stored} "
                f"pixels, so it must be a divisor of {stored}"
            )
        if not self._conditioning.is_available(self.manifest):
            raise UserError(
                f"config.model.conditioning is {self.conditioning!r}; {self.folder} lacks "
                f"{' or '.join(self._conditioning.features)}: {self._conditioning.remedy}"
            )

    @property
    def _conditioning(self) -> Conditioning:
        return get_conditioning(self.conditioning)

    def batches(
        self,
        seed: int,
        global_batch_size: int,
        per_replica_batch_size: int,
        start_step: int = 0,
        host: int = 0,
        num_hosts: int = 1,
    ) -> tf.data.Dataset:
        """Return the endless training examples of one host, one replica's batch at a time.

        Args:
          seed: the seed of the run.
          global_batch_size: the number of examples of a step, a multiple of the number of streams.
          per_replica_batch_size: the number b of examples in each element.
          start_step: the first step to read.
          host: the index of this host, which reads slots host, host + num_hosts, ...
          num_hosts: the number of hosts, which must divide the number of streams.

        Returns:
          A tf.data.Dataset of dicts: image, uint8 [b, H, W, C]; condition, whose fields
          models/conditioning.py describes; and slot, int32 [b], the position in the global batch.

        Raises:
          UserError: streams and hosts do not divide the batch evenly; see `check_batch_divides`.
        """
        streams = self.manifest.streams("train")
        check_batch_divides(global_batch_size, len(streams), num_hosts)
        per_stream = global_batch_size // len(streams)
        own_streams = range(host, len(streams), num_hosts)
        # Read several steps at once, so that each operation handles about _EXAMPLES_PER_INTERLEAVE examples.
        steps = max(1, _EXAMPLES_PER_INTERLEAVE // (per_stream * len(own_streams)))
        readers = [
            self._read_stream(
                streams[index], seed, index, start_step * per_stream, steps * per_stream
            )
            for index in own_streams
        ]
        slots_per_step = np.arange(per_stream)[:, None] * len(streams) + np.array(own_streams)
        slots = tf.data.Dataset.from_tensors(
            np.tile(slots_per_step.astype(np.int32).ravel(), steps)
        )
        batches = tf.data.Dataset.zip((tf.data.Dataset.zip(tuple(readers)), slots.repeat()))
        batches = batches.map(_interleave, num_parallel_calls=2, deterministic=True)
        batches = batches.rebatch(per_replica_batch_size, drop_remainder=True).prefetch(4)
        return disable_autotuning(batches)

    def list_shards_near(self, seed: int, global_batch_size: int, step: int) -> list[Shard]:
        """Return the shards that training reads at a step, and the next two of each stream."""
        streams, shards = self.manifest.streams("train"), []
        for index, stream in enumerate(streams):
            counts = np.array([shard.num_examples for shard in stream], np.int64)
            order = StreamOrder(seed, index, counts, step * (global_batch_size // len(streams)))
            visits = range(order.first_visit, order.first_visit + 3)
            shards += [stream[int(order.shard_of(visit))] for visit in visits]
        return shards

    def examples(
        self, split: str, count: int, captions: tuple[str, ...] = ()
    ) -> list[dict[str, object]]:
        """Return the first examples of a split, in the order in which they were written.

        Args:
          split: the name of the split.
          count: the maximum number of examples to return.
          captions: captions whose examples come first; see `FirstExamples.read`.

        Returns:
          A dict for each example: caption and key, str; image, uint8 [H, W, C]; and condition.

        Raises:
          UserError: there is no such split, or a caption was not found.
        """
        first = FirstExamples(self.folder, self.manifest, split, self.on_damage)
        serialized = first.read(count, captions)
        examples = []
        for start in range(0, len(serialized), _PARSE_BATCH_SIZE):
            batch = tf.constant(serialized[start : start + _PARSE_BATCH_SIZE])
            examples += _split_examples(self._parse_examples(batch))
        return examples

    def iter_examples(self, split: str, limit: int) -> Iterator[dict[str, object]]:
        """Yield examples of a split in the form of `examples`, one stream after another.

        If a split is larger than the limit, the same number of examples is taken from each stream, because
        streams may differ systematically. These examples are spread evenly over the stream, because a
        stream may be sorted, for example by class.

        Args:
          split: the name of the split.
          limit: the maximum number of examples.
        """
        streams = self.manifest.streams(split)
        is_limited = limit < self.manifest.num_examples(split)
        per_stream = -(-limit // len(streams)) if is_limited else limit
        for shards in streams:
            for batch in disable_autotuning(self._read_evenly(shards, min(per_stream, limit))):
                limit -= len(batch["image"])
                yield from _split_examples(batch)

    def _read_evenly(self, shards: tuple[Shard, ...], limit: int) -> tf.data.Dataset:
        """Return batches of at most `limit` examples of a stream, spread evenly over it."""
        files = np.array([posixpath.join(self.folder, shard.file) for shard in shards])
        counts = np.array([shard.num_examples for shard in shards], np.int64)
        starts, total = counts.cumsum() - counts, counts.sum()
        limit = min(limit, total)
        positions = np.arange(limit) * total // max(limit, 1)

        def read(file, count, start):
            rows = tf.boolean_mask(
                positions - start, (positions >= start) & (positions < start + count)
            )

            def choose(records):  # with on_damage=skip, a shard may give fewer of them
                is_there = rows < tf.size(records, tf.int64)
                return tf.gather(records, tf.boolean_mask(rows, is_there))

            return self._read_shard(file, count).map(choose)

        used = np.unique(np.searchsorted(starts, positions, side="right") - 1)
        shard_values = files[used], counts[used], starts[used]
        records = tf.data.Dataset.from_tensor_slices(shard_values).flat_map(read)
        return records.unbatch().batch(_PARSE_BATCH_SIZE).map(self._parse_examples)

    def _parse_examples(self, serialized: tf.Tensor) -> dict[str, object]:
        """Return the keys, captions, images and conditions of serialized examples, string [N]."""
        names = ("key", "caption", "image", *self._conditioning.features)
        features = parse_records(serialized, self.manifest, names)
        return {
            "key": features["key"],
            "caption": features["caption"],
            "image": self._reduce(features["image"]),
            "condition": self._conditioning.from_features(features),
        }

    def _reduce(self, images: tf.Tensor) -> tf.Tensor:
        """Downscale images to `image_size` by the rounded mean of each block of pixels."""
        factor = self.manifest.image_size // self.image_size
        if factor == 1:
            return images
        size, channels = self.image_size, self.manifest.channels
        blocks = tf.reshape(tf.cast(images, tf.int32), [-1, size, factor, size, factor, channels])
        total = tf.reduce_sum(blocks, axis=[2, 4])
        return tf.cast((total + factor * factor // 2) // (factor * factor), tf.uint8)

    def _read_stream(
        self, shards: tuple[Shard, ...], seed: int, stream: int, position: int, block: int
    ) -> tf.data.Dataset:
        """Return the endless examples of a stream, `block` at a time, starting at `position`."""
        counts = np.array([shard.num_examples for shard in shards], np.int64)
        files = tf.constant([posixpath.join(self.folder, shard.file) for shard in shards])
        order = StreamOrder(seed, stream, counts, position)

        def read(visit):
            shard = order.shard_of(visit)
            count = tf.constant(counts)[shard]
            indices = order.records_of(visit, shard, count)
            records = self._read_shard(files[shard], count)
            return records.map(lambda records: (records, indices))

        def parse(records, indices):
            parts = tf.data.Dataset.from_tensor_slices(indices).batch(_PARSE_BATCH_SIZE)
            return parts.map(lambda indices: self._parse(tf.gather(records, indices)))

        visits = tf.data.Dataset.counter(order.first_visit, dtype=tf.int64).flat_map(read)
        # Read the next shard while this one is used.
        return visits.prefetch(1).flat_map(parse).rebatch(block, drop_remainder=True)

    def _read_shard(self, file: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Return a tf.data.Dataset of one element: a shard's serialized examples, string [count]."""
        records = tf.data.TFRecordDataset(file, buffer_size=1 << 20)
        if self.on_damage == "raise":  # `translate_data_errors` finds out which record is damaged
            return records.batch(count)

        def read_slowly(file, count):
            try:
                return shard_file.read_shard(file.numpy().decode(), int(count), self.on_damage)
            except UserError as error:
                self.errors.append(error)
                raise

        def skip_damage(file, count):
            return tf.ensure_shape(tf.py_function(read_slowly, [file, count], tf.string), [None])

        # `intact` is empty if a record is damaged. `take(1)` then takes the element of `fallback`.
        intact = records.batch(count, drop_remainder=True).ignore_errors()
        fallback = tf.data.Dataset.from_tensors((file, count)).map(skip_damage)
        return intact.concatenate(fallback).take(1)

    def _parse(self, records: tf.Tensor) -> dict[str, object]:
        """Return image and condition of serialized examples, string [N]."""
        names = ("image", *self._conditioning.features)
        features = parse_records(records, self.manifest, names)
        return {
            "image": self._reduce(features["image"]),
            "condition": self._conditioning.from_features(features),
        }


def _split_examples(batch: dict[str, object]) -> list[dict[str, object]]:
    """Return the examples of a batch that `Dataset._parse_examples` returned."""
    batch = tf.nest.map_structure(lambda tensor: tensor.numpy(), batch)
    return [
        {
            "caption": caption.decode(),
            "key": batch["key"][index].decode(),
            "image": batch["image"][index],
            "condition": {name: values[index] for name, values in batch["condition"].items()},
        }
        for index, caption in enumerate(batch["caption"])
    ]


def _interleave(blocks: tuple[dict, ...], slots: tf.Tensor) -> dict[str, object]:
    """Combine blocks of examples, one per stream, into one block in the order of the slots."""

    def interleave(*parts):
        stacked = tf.stack(parts, axis=1)
        return tf.reshape(stacked, [-1, *stacked.shape[2:]])

    return {**tf.nest.map_structure(interleave, *blocks), "slot": slots}


def open_dataset(
    folder: str, conditioning: str, image_size: int, on_damage: str = "raise"
) -> Dataset:
    """Open a folder of shards, local or gs://. See `Dataset` for the arguments and errors."""
    return Dataset(folder, read_manifest(folder), conditioning, image_size, on_damage)
