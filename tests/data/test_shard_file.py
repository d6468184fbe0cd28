"""Damaged shards: which record, what is raised, what takes its place."""

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data import shard_file
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError

COUNT = 12


@pytest.fixture
def folder(tmp_path):
    records = [
        Record(f"k{index}", np.full((4, 4, 3), index, np.uint8), f"caption {index}" * index, index)
        for index in range(COUNT)
    ]
    names = [str(index) for index in range(COUNT)]
    settings = dict(name="d", num_streams=1, shard_size=6, label_names=names)
    write_dataset(str(tmp_path), {"train": records}, **settings)
    return tmp_path


def starts(shard):
    """Where each record of a shard begins, by the lengths of its records."""
    lengths = [len(record.numpy()) + 16 for record in tf.data.TFRecordDataset(str(shard))]
    return np.cumsum([0, *lengths[:-1]])


def flip(path, place, bit=3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_checksums_are_googles():
    rng = np.random.default_rng(0)
    blocks = [rng.bytes(int(size)) for size in (0, 1, 5, 1000, 17, 999)]

    def masked(block):
        crc = google_crc32c.value(block)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    assert shard_file._masked_crc32c(blocks) == [masked(block) for block in blocks]


def test_any_flipped_bit_is_told_by_record(folder):
    shard = folder / "train-0000-00001.tfrecord"
    content, begins = shard.read_bytes(), starts(shard)
    rng = np.random.default_rng(1)
    for place in [*rng.integers(0, len(content), 25), 0, 8, 12, len(content) - 1]:
        flip(shard, place, rng.integers(8))
        hit = int(np.searchsorted(begins, place, side="right")) - 1
        found = shard_file.read_intact_records(str(shard), 6)
        # After a damaged length nothing can be found.
        lost = range(hit, 6) if place - begins[hit] < 12 else [hit]
        assert [index for index, record in enumerate(found) if record is None] == list(lost)
        with pytest.raises(UserError, match=f"{shard.name} is damaged at record {hit}"):
            shard_file.check_shard(str(shard), 6)
        shard.write_bytes(content)
    shard_file.check_shard(str(shard), 6)


def labels(dataset, steps):
    batches = dataset.batches(0, 4, 4).take(steps).as_numpy_iterator()
    return np.concatenate([batch["condition"]["label"] - 1 for batch in batches])


def test_raise_names_shard_and_record(folder):
    shard = folder / "train-0000-00001.tfrecord"
    flip(shard, starts(shard)[2] + 20)
    dataset = open_dataset(str(folder), "label", 4)
    with (
        pytest.raises(UserError, match=r"00001.tfrecord is damaged at record 2 of 6"),
        translate_data_errors(dataset),
    ):
        labels(dataset, 3)
    with pytest.raises(UserError, match="record 2 of 6"), translate_data_errors(dataset):
        dataset.examples("train", COUNT)


@pytest.mark.parametrize(("record", "stand_in"), [(2, 3), (5, 0)])
def test_skip_gives_its_places_to_the_next(folder, record, stand_in, caplog):
    dataset = open_dataset(str(folder), "label", 4, on_damage="skip")
    whole = labels(dataset, 9)
    shard = folder / "train-0000-00001.tfrecord"
    flip(shard, starts(shard)[record] + 20)
    expected = np.where(whole == 6 + record, 6 + stand_in, whole)
    np.testing.assert_array_equal(labels(dataset, 9), expected)
    assert f"00001.tfrecord: skipped 1 damaged record(s): {record}" in caplog.text
    keys = [example["key"] for example in dataset.examples("train", COUNT)]
    assert keys == [f"k{6 + stand_in if index == 6 + record else index}" for index in range(COUNT)]


def test_skip_still_raises_where_nothing_is_whole(folder):
    shard = folder / "train-0000-00000.tfrecord"
    flip(shard, 0)
    dataset = open_dataset(str(folder), "label", 4, on_damage="skip")
    with (
        pytest.raises(UserError, match="record 0, 1, 2, 3, 4, ... of 6"),
        translate_data_errors(dataset),
    ):
        labels(dataset, 3)
