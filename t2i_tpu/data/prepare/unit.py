"""The work on one unit: items -> images that passed -> one file, and a record of all outcomes.

A file holds examples as `records.serialize` makes them, and beside them what the duplicates are told
by. UNIT.json is written last and names it: where it is, the unit is done.
"""

import dataclasses
import hashlib
import json
import posixpath
import uuid
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from t2i_tpu.data import records
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.prepare import filters, images
from t2i_tpu.data.prepare.rejected import Lost
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.source import Item, Source, Unit
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, gcs


@dataclasses.dataclass(frozen=True)
class Done:
    """The record of a finished unit.

    Attributes:
      file: of its examples, in the work folder.
      num_examples: in that file.
      lost: (key, cause) of every other item.
      dim: of the embeddings that came with it, if any did.
      normalized: all of them have length 1.
    """

    file: str
    num_examples: int
    lost: tuple[tuple[str, str], ...]
    dim: int | None
    normalized: bool


def unit_path(work: str, index: int) -> str:
    """Without its ending."""
    return posixpath.join(work, f"unit-{index:06d}")


def is_done(work: str, index: int) -> bool:
    return tf.io.gfile.exists(unit_path(work, index) + ".json")


def read_done(work: str, index: int) -> Done:
    with tf.io.gfile.GFile(unit_path(work, index) + ".json") as file:
        return Done(**json.load(file))


def do_unit(work: str, index: int, unit: Unit, source: Source, settings: Settings) -> None:
    """Reads a unit and writes its two files.

    Raises:
      UserError: of the source as a whole, or a library that a filter needs is missing.
    """
    path = unit_path(work, index)
    # Two workers may do one unit: one outlives its killed parent, or Beam tries again too early. Of
    # URLs they may get different images, so each has a file of its own.
    examples = f"{path}.{uuid.uuid4().hex}.tfrecord"
    lost, dim, normalized, count = [], None, True, 0
    label_names = source.label_names()
    with files.write_atomically(examples) as partial, tf.io.TFRecordWriter(partial) as writer:
        for item in _items(source, unit, settings.source):
            try:
                example = _example(item, settings, label_names)
            except Lost as loss:
                lost.append((item.key.encode("utf-8", "replace").decode(), loss.cause))
                continue
            if item.embedding is not None:
                dim = dim or len(item.embedding)
                normalized &= bool(abs(np.linalg.norm(item.embedding) - 1) < 1e-3)
            writer.write(example)
            count += 1
    done = Done(posixpath.basename(examples), count, tuple(lost), dim, normalized)
    if not is_done(work, index):  # the first stays: shards may have been written of it
        files.write(path + ".json", json.dumps(dataclasses.asdict(done)), shared=True)


def _items(source: Source, unit: Unit, name: str) -> Iterator[Item]:
    try:
        yield from source.read(unit)
    except tf.errors.OpError as error:
        reason = gcs.explain_error(error) if "gs://" in name else error.message.splitlines()[0]
        raise UserError(
            f"--source={name}: {reason}; what is finished stays, and the same command goes on"
        ) from error


def read_examples(work: str, done: Done) -> Iterator[tf.train.Example]:
    records = tf.data.TFRecordDataset(posixpath.join(work, done.file)).batch(64)
    for batch in disable_autotuning(records):
        yield from map(tf.train.Example.FromString, batch.numpy())


def _example(item: Item, settings: Settings, label_names: tuple[str, ...] | None) -> bytes:
    """Raises Lost by the first thing that is wrong or not wanted."""
    if item.problem:
        raise Lost(item.problem)
    try:
        item.key.encode()
    except UnicodeEncodeError:
        raise Lost("key_not_utf8") from None
    caption = filters.clean_caption(item.caption)
    image = images.decode(item.image)
    filters.check_before_decoding(settings.filters, image.size, caption, item.columns)
    if label_names and item.label not in range(len(label_names)):
        raise Lost("bad_label")
    embedding = item.embedding if settings.encoder.startswith("none") else None
    if embedding is not None and (embedding.ndim != 1 or not np.isfinite(embedding).all()):
        raise Lost("bad_embedding")
    pixels = images.square(image, settings.image_size, settings.crop, settings.channels)
    filters.check_pixels(settings.filters, pixels)
    label = item.label if label_names else None
    record = records.Record(item.key, pixels, caption, label, embedding)
    example = records.to_example(record, "raw")
    features = example.features.feature
    if item.split:
        features["split"].bytes_list.value.append(item.split.encode())
    if settings.filters.drop_same_images:
        content = item.image if isinstance(item.image, bytes) else item.image.tobytes()
        features["sha256"].bytes_list.value.append(hashlib.sha256(content).digest())
    if settings.filters.near_duplicates is not None:
        features["hash"].bytes_list.value.append(perceptual_hash(pixels))
    return example.SerializeToString(deterministic=True)


def perceptual_hash(pixels: np.ndarray) -> bytes:
    """64 bits of imagehash.phash."""
    try:
        import imagehash
    except ImportError:
        raise UserError("--near_duplicates needs imagehash; pip install -e '.[prepare]'") from None
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    return np.packbits(imagehash.phash(image).hash).tobytes()
