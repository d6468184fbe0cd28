"""Fixtures for the tests of data/: small records, small idx folders, and a simple reader."""

import gzip
import posixpath

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.records import Record, parse_records


@pytest.fixture
def make_records():
    """`make_records(count, ...)` returns records of noise without optional fields."""

    def make(count, size=8, channels=3, prefix="r"):
        images = np.random.default_rng(count).integers(0, 256, (count, size, size, channels))
        return [
            Record(f"{prefix}{index}", image.astype(np.uint8), caption=f"{prefix} {index}")
            for index, image in enumerate(images)
        ]

    return make


@pytest.fixture
def read_shards():
    """`read_shards(folder, split)` returns the parsed examples in numpy, stream after stream."""

    def read(folder, split):
        manifest = read_manifest(folder)
        files = [
            posixpath.join(folder, shard.file)
            for stream in manifest.streams(split)
            for shard in stream
        ]
        examples = tf.data.TFRecordDataset(files).batch(1)
        examples = examples.map(lambda batch: parse_records(batch, manifest)).unbatch()
        return list(disable_autotuning(examples).as_numpy_iterator())

    return read


@pytest.fixture
def write_idx():
    """`write_idx(folder, ...)` writes four idx files, and returns {prefix: (images, labels)}."""

    def write(folder, train=20, test=17, gzipped=True, size=28):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        arrays = {}
        for prefix, count in (("train", train), ("t10k", test)):
            images = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                content = header + array.tobytes()
                ending = ".gz" if gzipped else ""
                path = folder / f"{prefix}-{stem}-ubyte{ending}"
                path.write_bytes(gzip.compress(content) if gzipped else content)
            arrays[prefix] = images, labels
        return arrays

    return write
