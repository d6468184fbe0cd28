"""Finished units -> the shards and the manifest: one pass, in an order that the seed decides.

It remembers nothing on disk but the shards themselves: interrupted, it passes again and leaves the
shards that are whole as they are.
"""

import collections
import csv
import hashlib
import io
import posixpath

import tensorflow as tf

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data import records
from t2i_tpu.data.prepare.duplicates import Seen
from t2i_tpu.data.prepare.encode import UnitEncoder
from t2i_tpu.data.prepare.settings import Settings, versions
from t2i_tpu.data.prepare.unit import Done, read_done, read_examples
from t2i_tpu.data.writer import StreamWriter
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

LOSSES_NAME = "losses.csv"
_BESIDE = ("split", "sha256", "hash")  # features of a unit's example that shards don't have


def assemble(
    output: str,
    work: str,
    num_units: int,
    settings: Settings,
    encoder: UnitEncoder,
    label_names: tuple[str, ...] | None,
) -> manifest_lib.Manifest:
    """Writes everything but the manifest, which it returns.

    Raises:
      UserError: too few examples are left.
    """
    dim, normalized = _given_embeddings(work, num_units)
    shards = _Shards(output, settings)
    outcomes, cut = collections.Counter(), 0
    seen = Seen(settings.filters.near_duplicates)
    losses = _Losses(posixpath.join(output, LOSSES_NAME))
    for index in sorted(range(num_units), key=lambda unit: _draw(settings.seed, f"unit {unit}")):
        done = encoder.encode(work, index)  # again, where two workers ended at once
        for key, cause in done.lost:
            losses.add(key, cause)
            outcomes[cause] += 1
        encoded = encoder.read(work, done)
        cut += encoded.cut if encoded else 0
        for row, example in enumerate(read_examples(work, done)):
            features = example.features.feature
            key = features["key"].bytes_list.value[0].decode()
            cause = seen.cause(key, _beside(features, "sha256"), _beside(features, "hash"))
            if not encoded and dim and len(_beside(features, "embedding") or b"") != 4 * dim:
                cause = cause or "no_embedding"
            if cause:
                losses.add(key, cause)
                outcomes[cause] += 1
                continue
            split = (_beside(features, "split") or b"").decode() or _split(settings, key)
            for name in _BESIDE:
                features.pop(name, None)
            if encoded:
                records.add_text_features(
                    example,
                    encoded.embeddings[row],
                    encoded.tokens[row].tolist(),
                    encoded.sequences[row],
                )
            shards.write(split, example.SerializeToString(deterministic=True))
            outcomes[split] += 1
    seen.close()
    losses.close()
    counts = dict(sorted(outcomes.items()))
    return manifest_lib.Manifest(
        name=posixpath.basename(output.rstrip("/")),
        image_size=settings.image_size,
        channels=settings.channels,
        splits=shards.close(counts),
        **encoder.contracts(dim, normalized),
        label_names=label_names,
        image_format="raw",
        preparation=settings.as_dict()
        | {
            "outcomes": counts,
            "captions_cut": cut,
            "versions": versions(),
            "fingerprint": settings.fingerprint(),
        },
    )


def _draw(seed: int, what: str) -> float:
    """Uniform in [0, 1), a function of its arguments."""
    digest = hashlib.sha256(f"{seed} {what}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split(settings: Settings, key: str) -> str:
    return "heldout" if _draw(settings.seed, f"key {key}") < settings.heldout_share else "train"


def _given_embeddings(work: str, num_units: int) -> tuple[int | None, bool]:
    """(length, all are of norm 1) of the embeddings that came with the data."""
    dim, normalized = None, True
    for index in range(num_units):
        done: Done = read_done(work, index)
        dim = dim or done.dim
        normalized &= done.normalized
    return dim, normalized


def _beside(features, name: str) -> bytes | None:
    return features[name].bytes_list.value[0] if name in features else None


class _Shards:
    """Examples -> the streams of their split, in turn."""

    def __init__(self, output: str, settings: Settings):
        self.output, self.settings = output, settings
        self.streams, self.dealt = {}, collections.Counter()

    def write(self, split: str, serialized: bytes) -> None:
        if split not in self.streams:
            size = self.settings.shard_size
            self.streams[split] = [
                StreamWriter(self.output, f"{split}-{index:04d}", size, keep=True)
                for index in range(self.settings.num_streams)
            ]
        streams = self.streams[split]
        streams[self.dealt[split] % len(streams)].write(serialized)
        self.dealt[split] += 1

    def close(
        self, outcomes: dict[str, int]
    ) -> dict[str, tuple[tuple[manifest_lib.Shard, ...], ...]]:
        wanted = self.settings.num_streams
        for split in ("train", *self.streams):
            if self.dealt[split] < wanted:
                told = ", ".join(f"{count} {cause}" for cause, count in outcomes.items())
                raise UserError(
                    f"{self.dealt[split]} {split} examples are too few for {wanted} streams "
                    f"({told or 'the source is empty'}); with a lower --num_streams or "
                    "another --heldout_share it goes on from here, other filters begin anew"
                )
        return {
            split: tuple(stream.close() for stream in self.streams[split])
            for split in sorted(self.streams)
        }


class _Losses:
    """losses.csv: the key of every example that was left out, and why."""

    def __init__(self, path: str):
        self.path = path
        self.file = tf.io.gfile.GFile(path + ".tmp", "wb")
        self.add("key", "cause")

    def add(self, key: str, cause: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow((key, cause))
        self.file.write(line.getvalue().encode())

    def close(self) -> None:
        self.file.close()
        tf.io.gfile.rename(self.path + ".tmp", self.path, overwrite=True)


def finish(output: str, manifest: manifest_lib.Manifest) -> None:
    """The manifest makes it a data set."""
    files.write(posixpath.join(output, manifest_lib.MANIFEST_NAME), manifest.to_json())
