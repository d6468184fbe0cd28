"""What a data set is worth: is every byte what the manifest says, and what do the examples hold?"""

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
from t2i_tpu.data.prepare.duplicates import Seen
from t2i_tpu.data.prepare.unit import perceptual_hash
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

QUARANTINE = "quarantine"
_SHOWN = 64  # examples of a contact sheet


@dataclasses.dataclass
class Audit:
    """Attributes:
    problems: what is wrong, a line each; none in a good data set.
    bad_shards: files that are not what the manifest says.
    facts: {split: {what: value}} of all examples that could be read.
    sheet: (image uint8 [H, W, C], caption) of the first ones of each split.
    """

    manifest: manifest_lib.Manifest
    problems: list[str]
    bad_shards: list[str]
    facts: dict[str, dict[str, Any]]
    sheet: dict[str, list[tuple[np.ndarray, str]]]


def audit(folder: str, near_duplicates: int) -> Audit:
    """Reads all of a data set, a batch at a time.

    Args:
      near_duplicates: bits of 64 in which perceptual hashes of one image may differ.

    Raises:
      UserError: there is no manifest, or it is not one.
    """
    manifest = manifest_lib.read_manifest(folder, check_shards=False)
    found = Audit(manifest, [], [], {}, {})
    shards = [
        (split, shard)
        for split, streams in sorted(manifest.splits.items(), reverse=True)  # train first
        for stream in streams
        for shard in stream
    ]
    _check_strangers(folder, {shard.file for _, shard in shards}, found)
    splits: dict[str, _Split] = {}
    progress = tqdm(shards, desc="auditing", unit=" shards", disable=None)
    for split, shard in progress:
        problem = _problem(posixpath.join(folder, shard.file), shard)
        if problem:
            found.problems.append(f"{shard.file}: {problem}")
            found.bad_shards.append(shard.file)
            continue
        splits.setdefault(split, _Split(manifest, near_duplicates, splits.get("train")))
        for batch in _batches(posixpath.join(folder, shard.file), manifest):
            splits[split].add(batch)
    for one in manifest.text_tower or ():
        path = posixpath.join(folder, one.file)
        if not tf.io.gfile.exists(path):
            found.problems.append(f"{one.file}: is missing")
        elif files.measure(path)[1] != one.sha256:
            found.problems.append(f"{one.file}: is not the file that the manifest says")
    for name, split in splits.items():
        found.facts[name], found.sheet[name] = split.facts(), split.sheet
        found.problems += [f"{name}: {problem}" for problem in split.problems()]
    return found


def repair(folder: str, found: Audit) -> list[str]:
    """Moves bad shards into folder/quarantine and takes them out of the manifest; what it did.

    Raises:
      UserError: a stream would be empty.
    """
    bad = set(found.bad_shards)
    splits = {
        name: tuple(tuple(shard for shard in stream if shard.file not in bad) for stream in streams)
        for name, streams in found.manifest.splits.items()
    }
    empty = [name for name, streams in splits.items() if not all(streams)]
    if empty:
        raise UserError(
            f"{folder}: a stream of {empty[0]} has no whole shard left; restore one of "
            f"{', '.join(sorted(bad)[:3])}, or prepare the data set again"
        )
    path = posixpath.join(folder, manifest_lib.MANIFEST_NAME)
    preparation = dict(found.manifest.preparation or {})
    preparation["quarantined"] = sorted({*preparation.get("quarantined", ()), *bad})
    manifest = dataclasses.replace(found.manifest, splits=splits, preparation=preparation)
    files.write(path, manifest.to_json())
    tf.io.gfile.makedirs(posixpath.join(folder, QUARANTINE))
    done = []
    for file in found.bad_shards:
        source = posixpath.join(folder, file)
        if tf.io.gfile.exists(source):
            target = posixpath.join(folder, QUARANTINE, file)
            tf.io.gfile.rename(source, target, overwrite=True)
            done.append(f"{file} is in {QUARANTINE}/")
        else:
            done.append(f"{file} is no longer in the manifest")
    return done


def _problem(path: str, shard: manifest_lib.Shard) -> str | None:
    """Why a shard is not what the manifest says."""
    if not tf.io.gfile.exists(path):
        return "is missing"
    num_bytes, digest = files.measure(path)
    if digest == shard.sha256:
        return None
    records = shard_file.read_intact_records(path, shard.num_examples)
    damaged = [index for index, record in enumerate(records) if record is None]
    size = f"{num_bytes} bytes, the manifest says {shard.num_bytes}; " * (
        num_bytes != shard.num_bytes
    )
    if damaged:
        numbers = shard_file.listed(damaged)
        return f"{size}record {numbers} of {shard.num_examples} is damaged"
    return f"{size}its records are whole but not those of the manifest: it is of another data set"


def _check_strangers(folder: str, known: set[str], found: Audit) -> None:
    names = {name.rstrip("/") for name in tf.io.gfile.listdir(folder)}
    for name in sorted(names - known):
        if name.endswith((".tfrecord", ".tmp")):
            found.problems.append(f"{name}: is not in the manifest")


def _batches(path: str, manifest: manifest_lib.Manifest) -> Iterator[dict[str, np.ndarray]]:
    for batch in tf.data.TFRecordDataset(path).batch(256):
        yield {
            name: value.numpy() for name, value in records.parse_records(batch, manifest).items()
        }


class _Split:
    """What is counted over the examples of a split."""

    def __init__(self, manifest: manifest_lib.Manifest, distance: int, train: "_Split | None"):
        self.manifest, self.train = manifest, train
        self.images, self.captions, self.embeddings = Seen(distance), Seen(None), Seen(None)
        self.counts = collections.Counter()
        self.words, self.norms = collections.Counter(), []
        self.sum = self.squares = 0.0
        self.sheet = []

    def add(self, batch: dict[str, np.ndarray]) -> None:
        for key, image, caption in zip(batch["key"], batch["image"], batch["caption"], strict=True):
            text = caption.decode()
            self.counts["examples"] += 1
            self.words[min(len(text.split()), 100)] += 1
            self.counts["empty captions"] += not text.strip()
            self.counts["captions that come again"] += _again(self.captions, caption)
            digest, hash_ = hashlib.sha256(image).digest(), perceptual_hash(image)
            cause = self.images.cause(key.decode("utf-8", "replace"), digest, hash_)
            self.counts[_WORDS[cause]] += 1
            if self.train:
                self.counts["same image in train"] += self.train.images.has_same(digest)
                self.counts["near-duplicate in train"] += self.train.images.has_near(hash_)
            if len(self.sheet) < _SHOWN:
                self.sheet.append((image, text))
        if "embedding" in batch:
            self._add_embeddings(batch["embedding"])

    def _add_embeddings(self, values: np.ndarray) -> None:
        finite = np.isfinite(values).all(axis=1)
        self.counts["embeddings that are not finite"] += int((~finite).sum())
        self.counts["embeddings that come again"] += sum(
            _again(self.embeddings, value.tobytes()) for value in values
        )
        values = values[finite].astype(np.float64)
        norms = np.linalg.norm(values, axis=1)
        self.norms = [*self.norms[:2], *norms.tolist()]
        self.norms = [min(self.norms), max(self.norms)] if self.norms else []
        self.counts["embeddings of another length than 1"] += int((abs(norms - 1) > 1e-3).sum())
        self.sum = self.sum + values.sum(axis=0)
        self.squares = self.squares + (values**2).sum(axis=0)

    def facts(self) -> dict[str, Any]:
        facts = {name: count for name, count in self.counts.items() if name}
        total, middle = self.counts["examples"], 0
        for words in sorted(self.words):
            middle += self.words[words]
            if 2 * middle >= total:
                facts["words of a caption, median"] = words
                break
        if self.norms:
            facts["norms of embeddings"] = f"{self.norms[0]:.4f} to {self.norms[1]:.4f}"
            facts["dead dimensions of embeddings"] = self._dead_dimensions()
        return facts

    def problems(self) -> list[str]:
        wrong = {name: self.counts[name] for name in _WRONG if self.counts[name]}
        other = "embeddings of another length than 1"
        if self.manifest.embedding and self.manifest.embedding.normalized and self.counts[other]:
            wrong[f"{other}, which the manifest promises"] = self.counts[other]
        return [f"{count} {name}" for name, count in wrong.items()]

    def _dead_dimensions(self) -> int:
        count = self.counts["examples"] - self.counts["embeddings that are not finite"]
        if count < 2:
            return 0
        variance = self.squares / count - (self.sum / count) ** 2
        return int((variance < 1e-12).sum())


_WORDS = {
    None: "",
    "duplicate_key": "keys that come again",
    "duplicate_image": "images that come again",
    "near_duplicate": "near-duplicates",
}
_WRONG = ("keys that come again", "empty captions", "embeddings that are not finite")


def _again(seen: Seen, content: bytes) -> bool:
    return seen.cause(hashlib.sha256(content).hexdigest(), None, None) is not None
