"""Audits a data set: compares every file with the manifest, and counts flaws in the examples."""

import collections
import dataclasses
import hashlib
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import records, shard_file
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.prepare.duplicates import DuplicateIndex
from t2i_tpu.data.prepare.unit import compute_perceptual_hash
from t2i_tpu.storage import files, paths

_NUM_SHOWN = 64  # examples on a split's contact sheet
_MAX_WORDS = 100  # longer captions are counted as this long
# The causes that `DuplicateIndex.add_image` returns, and their names in a report.
_DUPLICATES = {
    "duplicate_image": "repeated images",
    "near_duplicate": "near-duplicates",
}
# Counts that must be 0.
_PROBLEMS = ("repeated keys", "empty captions", "embeddings that are not finite")
_NOT_UNIT_LENGTH = "embeddings whose norm is not 1"


@dataclasses.dataclass
class Audit:
    """The result of an audit.

    Attributes:
      manifest: the manifest of the data set.
      problems: one line for each problem; empty if the data set is intact.
      bad_shards: the shards that do not match the manifest, as paths relative to it.
      facts: {split: {name: value}}, statistics of all examples that could be read.
      sheet: {split: its first examples}, as pairs (image uint8 [H, W, C], caption).
    """

    manifest: manifest_lib.Manifest
    problems: list[str]
    bad_shards: list[str]
    facts: dict[str, dict[str, Any]]
    sheet: dict[str, list[tuple[np.ndarray, str]]]


def audit(folder: str, near_duplicates: int | None) -> Audit:
    """Read a complete data set and return its problems and statistics.

    Args:
      folder: the folder of the data set, local or gs://.
      near_duplicates: two images are near-duplicates if their perceptual hashes differ in at most
        this many of 64 bits. None to look only for equal images.

    Raises:
      UserError: there is no manifest, it cannot be read, or the folder is the workdir of a run.
    """
    manifest = manifest_lib.read_manifest(folder, check_shards=False)
    manifest_lib.check_not_workdir(folder, manifest)
    result = Audit(manifest, problems=[], bad_shards=[], facts={}, sheet={})
    _find_unknown_files(folder, result)
    splits = _read_splits(folder, near_duplicates, result)
    _check_text_tower(folder, result)
    for name, split in splits.items():
        result.facts[name], result.sheet[name] = split.collect_facts(), split.sheet
        result.problems += [f"{name}: {problem}" for problem in split.list_problems()]
    return result


def _find_unknown_files(folder: str, result: Audit) -> None:
    """Add a problem for each shard or unfinished file that is not in the manifest."""
    splits = result.manifest.splits.values()
    known = {shard.file for streams in splits for stream in streams for shard in stream}
    for name in files.list_names(folder):
        if name not in known and (name.endswith(".tfrecord") or paths.is_partial(name)):
            result.problems.append(f"{name} is not in the manifest")


def _read_splits(folder: str, near_duplicates: int | None, result: Audit) -> dict[str, "_Split"]:
    """Read all shards, add the bad ones to the result, and return each split's statistics."""
    manifest = result.manifest
    shards = [
        (name, shard)
        # Reverse order puts train first, because the held-out images are compared with it.
        for name, streams in sorted(manifest.splits.items(), reverse=True)
        for stream in streams
        for shard in stream
    ]
    splits: dict[str, _Split] = {}
    for name, shard in tqdm(shards, desc="auditing", unit=" shards", disable=None):
        path = posixpath.join(folder, shard.file)
        problem = _find_shard_problem(path, shard)
        if problem:
            result.problems.append(f"{shard.file}: {problem}")
            result.bad_shards.append(shard.file)
            continue
        if name not in splits:
            splits[name] = _Split(manifest, near_duplicates, splits.get("train"))
        for batch in _read_batches(path, manifest):
            splits[name].add(batch)
    return splits


def _find_shard_problem(path: str, shard: manifest_lib.Shard) -> str | None:
    """Return why a shard does not match the manifest, or None if it does."""
    if not tf.io.gfile.exists(path):
        return "the file is missing"
    num_bytes, digest = files.measure(path)
    if digest == shard.sha256:
        return None
    size = ""
    if num_bytes != shard.num_bytes:
        size = f"{num_bytes} bytes, but the manifest says {shard.num_bytes}; "
    intact = shard_file.read_intact_records(path, shard.num_examples)
    damaged = [index for index, record in enumerate(intact) if record is None]
    if damaged:
        indices = shard_file.format_indices(damaged)
        return f"{size}record {indices} of {shard.num_examples} is damaged"
    return f"{size}its records are intact, but it belongs to another data set"


def _read_batches(path: str, manifest: manifest_lib.Manifest) -> Iterator[dict[str, np.ndarray]]:
    """Yield the examples of a shard in batches, as `parse_records` returns them, in numpy."""
    for batch in disable_autotuning(tf.data.TFRecordDataset(path).batch(256)):
        parsed = records.parse_records(batch, manifest)
        yield {name: value.numpy() for name, value in parsed.items()}


def _check_text_tower(folder: str, result: Audit) -> None:
    """Add a problem for each file of the text tower that is missing or differs."""
    for stored in result.manifest.text_tower or ():
        path = posixpath.join(folder, stored.file)
        if not tf.io.gfile.exists(path):
            result.problems.append(f"{stored.file} is missing")
        elif files.measure(path)[1] != stored.sha256:
            result.problems.append(f"{stored.file} does not match the manifest")


class _Split:
    """Collects statistics of the examples of a split.

    Args:
      manifest: the manifest of the data set.
      distance: the argument `near_duplicates` of `audit`.
      train: the statistics of the train split, whose images are looked for in this split, or None.
    """

    def __init__(
        self, manifest: manifest_lib.Manifest, distance: int | None, train: "_Split | None"
    ):
        self.manifest, self.distance, self.train = manifest, distance, train
        self.images = DuplicateIndex(distance)
        self.captions, self.embeddings = DuplicateIndex(None), DuplicateIndex(None)
        self.counts = collections.Counter()
        self.words, self.norms = collections.Counter(), []
        self.sum = self.squares = 0.0
        self.sheet = []

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Count a batch of examples."""
        for key, image, caption in zip(batch["key"], batch["image"], batch["caption"], strict=True):
            text = caption.decode()
            self.counts["examples"] += 1
            self.words[min(len(text.split()), _MAX_WORDS)] += 1
            self.counts["empty captions"] += 0 if text.strip() else 1
            self.counts["repeated captions"] += _count_repeats(self.captions, [caption])
            self._add_image(key.decode("utf-8", "replace"), image)
            if len(self.sheet) < _NUM_SHOWN:
                self.sheet.append((image, text))
        if "embedding" in batch:
            self._add_embeddings(batch["embedding"])

    def _add_image(self, key: str, image: np.ndarray) -> None:
        digest = hashlib.sha256(image).digest()
        image_hash = None if self.distance is None else compute_perceptual_hash(image)
        if self.images.claim_key(key, b"") is None:
            self.counts["repeated keys"] += 1
        if cause := self.images.add_image(digest, image_hash):
            self.counts[_DUPLICATES[cause]] += 1
        if self.train:
            self.counts["same image in train"] += int(self.train.images.has_image(digest))
        if self.train and image_hash:
            self.counts["near-duplicate in train"] += int(
                self.train.images.has_near_duplicate(image_hash)
            )

    def _add_embeddings(self, values: np.ndarray) -> None:
        is_finite = np.isfinite(values).all(axis=1)
        self.counts["embeddings that are not finite"] += int((~is_finite).sum())
        self.counts["repeated embeddings"] += _count_repeats(
            self.embeddings, [value.tobytes() for value in values]
        )
        values = values[is_finite].astype(np.float64)
        norms = np.linalg.norm(values, axis=1)
        # Keep only the smallest and the largest norm.
        norms_so_far = [*self.norms, *norms.tolist()]
        self.norms = [min(norms_so_far), max(norms_so_far)] if norms_so_far else []
        self.counts[_NOT_UNIT_LENGTH] += int((abs(norms - 1) > 1e-3).sum())
        self.sum = self.sum + values.sum(axis=0)
        self.squares = self.squares + (values**2).sum(axis=0)

    def collect_facts(self) -> dict[str, Any]:
        """Return the statistics by name, for a report."""
        facts = dict(self.counts)
        if self.counts["examples"]:
            facts["words of a caption, median"] = self._median_words()
        if self.norms:
            facts["norms of embeddings"] = f"{self.norms[0]:.4f} to {self.norms[1]:.4f}"
            facts["dead dimensions of embeddings"] = self._count_dead_dimensions()
        return facts

    def list_problems(self) -> list[str]:
        """Return one line for each count that must be 0 and is not."""
        problems = [f"{self.counts[name]} {name}" for name in _PROBLEMS if self.counts[name]]
        embedding = self.manifest.embedding
        if embedding and embedding.normalized and self.counts[_NOT_UNIT_LENGTH]:
            count = self.counts[_NOT_UNIT_LENGTH]
            problems.append(f"{count} {_NOT_UNIT_LENGTH}, although the manifest says that it is")
        return problems

    def _median_words(self) -> int:
        """Return the lower median of the captions' lengths in words."""
        num_captions = 0
        for words in sorted(self.words):
            num_captions += self.words[words]
            if 2 * num_captions >= self.counts["examples"]:
                break
        return words

    def _count_dead_dimensions(self) -> int:
        """Return the number of dimensions that are the same in all finite embeddings."""
        count = self.counts["examples"] - self.counts["embeddings that are not finite"]
        if count < 2:
            return 0
        variance = self.squares / count - (self.sum / count) ** 2
        return int((variance < 1e-12).sum())


def _count_repeats(seen: DuplicateIndex, contents: list[bytes]) -> int:
    """Return how many of the contents have been seen before, and add them to `seen`."""
    digests = (hashlib.sha256(content).digest() for content in contents)
    return sum(1 for digest in digests if seen.add_image(digest, None))
