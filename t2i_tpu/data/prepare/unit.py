"""Processes one unit: rejects or converts its items and writes the examples to a file.

The file contains examples that `records.to_example` made, with the additional TEMPORARY_FEATURES. The
unit's result, unit-NAME.json, names that file and is written last: if it exists, the unit has been
processed. The unit's name changes with its input, so a result never belongs to a different input.
"""

import dataclasses
import hashlib
import json
import posixpath
import traceback
import uuid
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from t2i_tpu.data import records
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.prepare import clean, filters, images
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.prepare.sources import blame_source
from t2i_tpu.data.sources.source import Item, Source, Unit
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.storage import files

# Features that the examples of a unit have, but not those of a shard: the split that the source chose,
# and the hashes by which equal examples and duplicate images are found.
TEMPORARY_FEATURES = ("split", "digest", "sha256", "hash")


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """The result of processing a unit.

    Attributes:
      file: name of the file of examples in the work folder.
      num_examples: number of examples in that file.
      rejected: (key, cause) of each rejected item.
      embeddings: {dim: (count, whether all have norm 1)} of the embeddings that came with the items.
    """

    file: str
    num_examples: int
    rejected: tuple[tuple[str, str], ...]
    embeddings: dict[int, tuple[int, bool]]


def make_unit_path(work: str, name: str) -> str:
    """Return the path of a unit's files in the work folder, without an extension."""
    return posixpath.join(work, f"unit-{name}")


def is_processed(work: str, name: str) -> bool:
    """Return whether a unit has a result."""
    return tf.io.gfile.exists(make_unit_path(work, name) + ".json")


def read_result(work: str, name: str) -> UnitResult:
    """Read the result of a processed unit."""
    with tf.io.gfile.GFile(make_unit_path(work, name) + ".json") as file:
        fields = json.load(file)
    fields["embeddings"] = {int(dim): tuple(value) for dim, value in fields["embeddings"].items()}
    return UnitResult(**fields)


def process_unit(work: str, name: str, unit: Unit, source: Source, settings: Settings) -> None:
    """Read a unit, and write its examples and its result into the work folder.

    Args:
      work: the work folder.
      name: name of the unit in the plan.
      unit: the unit.
      source: the source that listed the unit.
      settings: settings of the preparation.

    Raises:
      UserError: the source cannot be read, or a package that a filter needs is missing.
    """
    path = make_unit_path(work, name)
    # Two workers may process the same unit if one outlives its killed parent or Beam retries too
    # early. Their downloads may differ, so each worker writes its own file.
    examples = f"{path}.{uuid.uuid4().hex}.tfrecord"
    rejected, embeddings, count = [], {}, 0
    label_names = source.read_label_names()
    with files.write_atomically(examples) as partial, tf.io.TFRecordWriter(partial) as writer:
        for item in _read_items(source, unit, settings.source):
            cause = None
            try:
                example, embedding = _make_example(item, settings, label_names)
            except (UserError, MemoryError):
                raise
            except Rejected as rejection:
                cause = rejection.cause
            except Exception as error:  # one item in millions must not end a preparation
                cause = _log_unforeseen(error, item.key)
            if cause:
                rejected.append((item.key.encode("utf-8", "replace").decode(), cause))
                continue
            if embedding is not None:
                seen, normalized = embeddings.get(len(embedding), (0, True))
                normalized &= bool(abs(np.linalg.norm(embedding) - 1) < 1e-3)
                embeddings[len(embedding)] = seen + 1, normalized
            writer.write(example)
            count += 1
    result = UnitResult(posixpath.basename(examples), count, tuple(rejected), embeddings)
    # Keep the first result, because shards may already have been written from it.
    if not is_processed(work, name):
        files.write(path + ".json", json.dumps(dataclasses.asdict(result)), shared=True)


def _read_items(source: Source, unit: Unit, name: str) -> Iterator[Item]:
    """Yield the items of a unit.

    If the source raises an unforeseen error, the last item stands for the rest of the unit, which is
    rejected.

    Raises:
      UserError: reading fails. The message names the source.
    """
    count = 0
    try:
        with blame_source(name):
            for item in source.read(unit):
                count += 1
                yield item
    except (UserError, MemoryError):
        raise
    except Exception as error:
        key = f"{unit.get('file', 'input')} after item {count}"
        yield Item(key, problem=f"rest_{_log_unforeseen(error, key)}")


def _log_unforeseen(error: Exception, key: str) -> str:
    """Log the first unforeseen error of this process, and return the cause of the rejection."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    logging.log_first_n(
        logging.WARNING,
        "%s is rejected because of an unforeseen %s (%s, line %d): %s; please report it",
        1,
        *(key, type(error).__name__, place.filename, place.lineno, get_first_line(error)),
    )
    return f"unreadable_{type(error).__name__}"


def read_examples(work: str, result: UnitResult) -> Iterator[tf.train.Example]:
    """Yield the examples of a processed unit."""
    batches = tf.data.TFRecordDataset(posixpath.join(work, result.file)).batch(64)
    for batch in disable_autotuning(batches):
        yield from map(tf.train.Example.FromString, batch.numpy())


def _make_example(
    item: Item, settings: Settings, label_names: tuple[str, ...] | None
) -> tuple[bytes, np.ndarray | None]:
    """Return an item as a serialized example, and its embedding if it came with one.

    Raises:
      Rejected: the item has a fault. If it has several, the first one is the cause.
    """
    if item.problem:
        raise Rejected(item.problem)
    try:
        item.key.encode()
    except UnicodeEncodeError:
        raise Rejected("key_not_utf8") from None

    # Check everything that does not need the pixels.
    caption = clean.clean_caption(item.caption)
    image = images.open_image(item.image)
    filters.check_before_decoding(settings.filters, image.size, caption, item.columns)
    if label_names and item.label not in range(len(label_names)):
        raise Rejected("bad_label")
    embedding = None
    if settings.keeps_embeddings and item.embedding is not None:
        embedding = clean.clean_embedding(item.embedding)

    # Decode the image.
    pixels = images.make_square(image, settings.image_size, settings.crop, settings.channels)
    filters.check_pixels(settings.filters, pixels)

    # Make the example, and add the temporary features.
    label = item.label if label_names else None
    record = records.Record(item.key, pixels, caption, label, embedding)
    example = records.to_example(record, "raw")
    features = example.features.feature
    if item.split:
        features["split"].bytes_list.value.append(item.split.encode())
    digest = hashlib.sha256(pixels.tobytes() + caption.encode()).digest()
    features["digest"].bytes_list.value.append(digest[:16])
    if settings.filters.drop_same_images:
        content = item.image if isinstance(item.image, bytes) else item.image.tobytes()
        features["sha256"].bytes_list.value.append(hashlib.sha256(content).digest())
    if settings.filters.near_duplicates is not None:
        features["hash"].bytes_list.value.append(compute_perceptual_hash(pixels))
    return example.SerializeToString(deterministic=True), embedding


def compute_perceptual_hash(pixels: np.ndarray) -> bytes:
    """Return the 64 bits of imagehash.phash for an image, uint8 [H, W, 1 or 3]."""
    try:
        import imagehash
    except ImportError:
        raise UserError("--near_duplicates needs imagehash; pip install -e '.[prepare]'") from None
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    return np.packbits(imagehash.phash(image).hash).tobytes()
