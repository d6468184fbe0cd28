"""Assembles the shards and the manifest from the processed units.

This takes one pass over all units, in an order that depends on the seed. No state other than the
shards is kept on disk: after an interruption the pass starts over, but does not rewrite complete
shards.
"""

import collections
import csv
import hashlib
import io
import posixpath

import tensorflow as tf

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data.prepare.duplicates import DuplicateIndex
from t2i_tpu.data.prepare.encode import EncodedUnit, UnitEncoder
from t2i_tpu.data.prepare.settings import Settings, collect_versions
from t2i_tpu.data.prepare.unit import TEMPORARY_FEATURES, read_examples, read_result
from t2i_tpu.data.writer import StreamWriter
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

REJECTED_NAME = "rejected.csv"


def assemble(
    output: str,
    work: str,
    num_units: int,
    settings: Settings,
    encoder: UnitEncoder,
    label_names: tuple[str, ...] | None,
) -> manifest_lib.Manifest:
    """Write the shards and the list of rejected examples, and return the manifest.

    The manifest is not written; see `write_manifest`.

    Args:
      output: folder of the data set, local or gs://.
      work: folder of the processed units.
      num_units: number of units, all of which must have been processed.
      settings: settings of the preparation.
      encoder: encoder of the captions.
      label_names: names of the classes, or None if there are no labels.

    Raises:
      UserError: too few examples are left.
    """
    given_dim, given_normalized = _inspect_given_embeddings(work, num_units)
    assembly = _Assembly(output, settings, required_dim=None if encoder.encoder else given_dim)
    num_cut = 0
    order = sorted(range(num_units), key=lambda unit: _draw(settings.seed, f"unit {unit}"))
    for index in order:
        # Captions are encoded here only if two workers finished the unit at the same time.
        result = encoder.encode_unit(work, index)
        for key, cause in result.rejected:
            assembly.reject(key, cause)
        encoded = encoder.read_unit(work, result)
        if encoded:
            num_cut += encoded.num_cut
        for row, example in enumerate(read_examples(work, result)):
            assembly.add(example, row, encoded)
    outcomes, splits = assembly.close()
    return manifest_lib.Manifest(
        name=posixpath.basename(output.rstrip("/")),
        image_size=settings.image_size,
        channels=settings.channels,
        splits=splits,
        **encoder.make_contracts(given_dim, given_normalized),
        label_names=label_names,
        image_format="raw",
        preparation={
            **settings.to_dict(),
            "outcomes": outcomes,
            "captions_cut": num_cut,
            "versions": collect_versions(),
            "fingerprint": settings.compute_fingerprint(),
        },
    )


def write_manifest(output: str, manifest: manifest_lib.Manifest) -> None:
    """Write the manifest, which completes the data set."""
    files.write(posixpath.join(output, manifest_lib.MANIFEST_NAME), manifest.to_json())


def _inspect_given_embeddings(work: str, num_units: int) -> tuple[int | None, bool]:
    """Return the most frequent dimension of the embeddings that came with the data.

    Returns:
      That dimension, or None if there are no embeddings, and whether all embeddings that have it have
      norm 1.
    """
    counts, normalized = collections.Counter(), collections.defaultdict(lambda: True)
    for index in range(num_units):
        for dim, (count, is_normalized) in read_result(work, index).embeddings.items():
            counts[dim] += count
            normalized[dim] &= is_normalized
    if not counts:
        return None, True
    ((dim, _),) = counts.most_common(1)
    return dim, normalized[dim]


def _draw(seed: int, name: str) -> float:
    """Return a uniform draw from [0, 1) that depends only on the arguments."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _get_bytes(features, name: str) -> bytes | None:
    """Return the value of a feature, or None if the example does not have it."""
    return features[name].bytes_list.value[0] if name in features else None


class _Assembly:
    """Rejects duplicates, writes all other examples to shards, and counts each outcome.

    Args:
      output: folder of the data set.
      settings: settings of the preparation.
      required_dim: dimension of the embeddings that came with the data, or None. Examples without
        such an embedding are rejected.
    """

    def __init__(self, output: str, settings: Settings, required_dim: int | None):
        self.settings, self.required_dim = settings, required_dim
        self.duplicates = DuplicateIndex(settings.filters.near_duplicates)
        self.shards = _ShardWriter(output, settings)
        self.rejected = _RejectedWriter(posixpath.join(output, REJECTED_NAME))
        self.outcomes = collections.Counter()

    def reject(self, key: str, cause: str) -> None:
        """Record a rejected example and its cause."""
        self.rejected.write(key, cause)
        self.outcomes[cause] += 1

    def add(self, example: tf.train.Example, row: int, encoded: EncodedUnit | None) -> None:
        """Write an example to its split, or reject it if it is a duplicate or lacks an embedding.

        Args:
          example: the example, as `unit.process_unit` wrote it.
          row: its index in its unit.
          encoded: the encoded captions of the unit, or None if there is no encoder.
        """
        features = example.features.feature
        key = _get_bytes(features, "key").decode()
        sha256, phash = _get_bytes(features, "sha256"), _get_bytes(features, "hash")
        cause = self.duplicates.add(key, sha256, phash)
        if not cause and self.required_dim:
            embedding = _get_bytes(features, "embedding") or b""
            if len(embedding) != 4 * self.required_dim:  # float32
                cause = "bad_embedding" if embedding else "no_embedding"
        if cause:
            self.reject(key, cause)
            return
        split = (_get_bytes(features, "split") or b"").decode() or self._choose_split(key)
        for name in TEMPORARY_FEATURES:
            features.pop(name, None)
        if encoded:
            encoded.add_to_example(example, row)
        self.shards.write(split, example.SerializeToString(deterministic=True))
        self.outcomes[split] += 1

    def close(self) -> tuple[dict[str, int], dict[str, tuple[tuple[manifest_lib.Shard, ...], ...]]]:
        """Finish all files, and return the count of each outcome and the shards of each split."""
        self.duplicates.close()
        self.rejected.close()
        outcomes = dict(sorted(self.outcomes.items()))
        return outcomes, self.shards.close(outcomes)

    def _choose_split(self, key: str) -> str:
        """Return the split of an example that depends only on its key and the seed."""
        is_heldout = _draw(self.settings.seed, f"key {key}") < self.settings.heldout_share
        return "heldout" if is_heldout else "train"


class _ShardWriter:
    """Distributes the examples of each split over its streams in turn."""

    def __init__(self, output: str, settings: Settings):
        self.output, self.settings = output, settings
        self.streams, self.counts = {}, collections.Counter()

    def write(self, split: str, serialized: bytes) -> None:
        if split not in self.streams:
            size = self.settings.shard_size
            self.streams[split] = [
                StreamWriter(self.output, f"{split}-{index:04d}", size, keep=True)
                for index in range(self.settings.num_streams)
            ]
        streams = self.streams[split]
        streams[self.counts[split] % len(streams)].write(serialized)
        self.counts[split] += 1

    def close(
        self, outcomes: dict[str, int]
    ) -> dict[str, tuple[tuple[manifest_lib.Shard, ...], ...]]:
        """Finish the shards and return them. Raises UserError if a stream would have no example."""
        num_streams = self.settings.num_streams
        for split in ("train", *self.streams):
            if self.counts[split] < num_streams:
                summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
                raise UserError(
                    f"{self.counts[split]} {split} examples are too few for {num_streams} streams "
                    f"({summary or 'the source is empty'}); lower --num_streams or change "
                    "--heldout_share to continue from here; changing the filters means starting "
                    "over"
                )
        return {
            split: tuple(stream.close() for stream in self.streams[split])
            for split in sorted(self.streams)
        }


class _RejectedWriter:
    """Writes a CSV file with the key of every rejected example and the cause."""

    def __init__(self, path: str):
        self.path = path
        self.file = tf.io.gfile.GFile(path + ".tmp", "wb")
        self.write("key", "cause")

    def write(self, key: str, cause: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow((key, cause))
        self.file.write(line.getvalue().encode())

    def close(self) -> None:
        self.file.close()
        tf.io.gfile.rename(self.path + ".tmp", self.path, overwrite=True)
