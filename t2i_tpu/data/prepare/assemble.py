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
from t2i_tpu.data.prepare.causes import RejectedExamples, count_outcomes
from t2i_tpu.data.prepare.duplicates import DuplicateIndex
from t2i_tpu.data.prepare.encode import EncodedUnit, UnitEncoder
from t2i_tpu.data.prepare.progress import show_progress
from t2i_tpu.data.prepare.settings import Settings, collect_versions
from t2i_tpu.data.prepare.shards import ShardWriter, keep_only_shards_of
from t2i_tpu.data.prepare.unit import TEMPORARY_FEATURES, read_examples, read_result
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths

REJECTED_NAME = "rejected.csv"


def assemble(
    output: str,
    work: str,
    units: list[str],
    settings: Settings,
    encoder: UnitEncoder,
    label_names: tuple[str, ...] | None,
) -> manifest_lib.Manifest:
    """Write the shards and the list of rejected examples, and return the manifest.

    The manifest is not written; see `write_manifest`.

    Args:
      output: folder of the data set, local or gs://.
      work: folder of the processed units.
      units: names of the units, all of which must have been processed.
      settings: settings of the preparation.
      encoder: encoder of the captions.
      label_names: names of the classes, or None if there are no labels.

    Raises:
      UserError: too few examples are left.
    """
    given_dim, given_normalized, key = _inspect_results(work, units)
    keep_only_shards_of(f"{key} {settings.to_json()}", output, work)
    assembly = _Assembly(output, settings, required_dim=None if encoder.encoder else given_dim)
    num_cut = 0
    order = sorted(range(len(units)), key=lambda unit: _draw(settings.seed, f"unit {unit}"))
    with show_progress("writing the shards", "units", len(units)) as progress:
        for index in progress.iterate(order):
            # Captions are encoded here only if two workers finished the unit at the same time.
            result = encoder.encode_unit(work, units[index])
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


def _inspect_results(work: str, units: list[str]) -> tuple[int | None, bool, str]:
    """Read the results of all units.

    Returns:
      The most frequent dimension of the embeddings that came with the data, or None if there are none;
      whether all embeddings of that dimension have norm 1; and a hash that changes if any unit is
      processed again.
    """
    counts, normalized = collections.Counter(), collections.defaultdict(lambda: True)
    key = hashlib.sha256()
    for name in units:
        result = read_result(work, name)
        key.update(result.file.encode() + b"\n")
        for dim, (count, is_normalized) in result.embeddings.items():
            counts[dim] += count
            normalized[dim] &= is_normalized
    ((dim, _),) = counts.most_common(1) or [(None, 0)]
    return dim, normalized[dim], key.hexdigest()


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
        self.shards = ShardWriter(output, settings)
        self.rejected = _RejectedWriter(posixpath.join(output, REJECTED_NAME))
        self.causes = RejectedExamples()

    def reject(self, key: str, cause: str) -> None:
        """Record a rejected example and its cause."""
        self.rejected.write(key, cause)
        self.causes.add(key, cause)

    def add(self, example: tf.train.Example, row: int, encoded: EncodedUnit | None) -> None:
        """Write an example to its split, or reject it if it is a duplicate or lacks an embedding.

        Args:
          example: the example, as `unit.process_unit` wrote it.
          row: its index in its unit.
          encoded: the encoded captions of the unit, or None if there is no encoder.
        """
        features = example.features.feature
        key = _get_bytes(features, "key").decode()
        unique_key, cause = self._find_key(key, features)
        if cause:
            self.reject(key, cause)
            return
        # Examples of one key, such as an image with five captions, must not straddle the splits.
        split = (_get_bytes(features, "split") or b"").decode() or self._choose_split(key)
        features["key"].bytes_list.value[0] = unique_key.encode()
        for name in TEMPORARY_FEATURES:
            features.pop(name, None)
        if encoded:
            encoded.add_to_example(example, row)
        self.shards.write(split, example.SerializeToString(deterministic=True))

    def close(self) -> tuple[dict[str, int], dict[str, tuple[tuple[manifest_lib.Shard, ...], ...]]]:
        """Finish all files, and return the count of each outcome and the shards of each split."""
        self.duplicates.close()
        self.rejected.close()
        outcomes = dict(sorted((self.shards.counts + self.causes.counts).items()))
        self._check_counts(outcomes)
        return outcomes, self.shards.close()

    def _find_key(self, key: str, features) -> tuple[str | None, str | None]:
        """Return (unique key, None) of an example, or (None, cause) if it must be rejected."""
        if self.required_dim:
            embedding = _get_bytes(features, "embedding") or b""
            if len(embedding) != 4 * self.required_dim:  # float32
                return None, "bad_embedding" if embedding else "no_embedding"
        sha256, phash = _get_bytes(features, "sha256"), _get_bytes(features, "hash")
        if cause := self.duplicates.add_image(sha256, phash):
            return None, cause
        unique_key = self.duplicates.claim_key(key, _get_bytes(features, "digest"))
        return unique_key, None if unique_key else "duplicate"

    def _check_counts(self, outcomes: dict[str, int]) -> None:
        """Raise UserError if a split has fewer examples than it needs."""
        settings, counts = self.settings, self.shards.counts
        found = count_outcomes(outcomes)
        if not counts["train"] and counts["heldout"]:
            raise UserError(
                f"no example is left to train on ({found}); set --heldout_share=0 or use more examples"
            )
        if not counts["train"]:
            explanation = self.causes.explain()
            raise UserError(f"--source={settings.source}: no example can be used: {explanation}")
        split = min(counts, key=lambda split: (counts[split], split))
        if counts[split] < (settings.num_streams or 1):
            other = ", or raise --heldout_share" if split == "heldout" else ""
            raise UserError(
                f"--num_streams={settings.num_streams} is more than the {counts[split]} {split} "
                f"examples ({found}); lower it to {counts[split]} or leave it out{other}; the processed "
                "images are reused"
            )

    def _choose_split(self, key: str) -> str:
        """Return the split of an example that depends only on its key and the seed."""
        is_heldout = _draw(self.settings.seed, f"key {key}") < self.settings.heldout_share
        return "heldout" if is_heldout else "train"


class _RejectedWriter:
    """Writes a CSV file with the key of every rejected example and the cause."""

    def __init__(self, path: str):
        self.path = path
        self.file = tf.io.gfile.GFile(path + paths.PARTIAL_SUFFIX, "wb")
        self.write("key", "cause")

    def write(self, key: str, cause: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow((key, cause))
        self.file.write(line.getvalue().encode())

    def close(self) -> None:
        self.file.close()
        tf.io.gfile.rename(self.path + paths.PARTIAL_SUFFIX, self.path, overwrite=True)
