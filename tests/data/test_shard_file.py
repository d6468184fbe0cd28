"""Tests that damaged records are named, and can be replaced by the next intact record."""

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data import shard_file
from t2i_tpu.data.pipeline import disable_autotuning
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


def find_starts(shard):
    """Return the position at which each record of a shard begins."""
    records = disable_autotuning(tf.data.TFRecordDataset(str(shard)))
    lengths = [len(record.numpy()) + 16 for record in records]
    return np.cumsum([0, *lengths[:-1]])


def flip_bit(path, position, bit=3):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_checksums_equal_those_of_google_crc32c():
    rng = np.random.default_rng(0)
    blocks = [rng.bytes(int(size)) for size in (0, 1, 5, 1000, 17, 999)]

    def mask(block):
        crc = google_crc32c.value(block)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    assert shard_file.masked_crc32c(blocks) == [mask(block) for block in blocks]


def test_any_flipped_bit_is_found(folder):
    shard = folder / "train-0000-00001.tfrecord"
    content, starts = shard.read_bytes(), find_starts(shard)
    rng = np.random.default_rng(1)
    for position in [*rng.integers(0, len(content), 25), 0, 8, 12, len(content) - 1]:
        flip_bit(shard, position, rng.integers(8))
        damaged = int(np.searchsorted(starts, position, side="right")) - 1
        records = shard_file.read_intact_records(str(shard), 6)
        # The records after a damaged length cannot be found.
        missing = range(damaged, 6) if position - starts[damaged] < 12 else [damaged]
        assert [index for index, record in enumerate(records) if record is None] == list(missing)
        with pytest.raises(UserError, match=f"{shard.name} is damaged at record {damaged}"):
            shard_file.check_shard(str(shard), 6)
        shard.write_bytes(content)
    shard_file.check_shard(str(shard), 6)


def read_labels(dataset, steps):
    batches = dataset.batches(0, 4, 4).take(steps).as_numpy_iterator()
    return np.concatenate([batch["condition"]["label"] - 1 for batch in batches])


def test_error_names_shard_and_record(folder):
    shard = folder / "train-0000-00001.tfrecord"
    flip_bit(shard, find_starts(shard)[2] + 20)
    dataset = open_dataset(str(folder), "label", 4)
    with (
        pytest.raises(UserError, match=r"00001.tfrecord is damaged at record 2 of 6"),
        translate_data_errors(dataset),
    ):
        read_labels(dataset, 3)
    with pytest.raises(UserError, match="record 2 of 6"), translate_data_errors(dataset):
        dataset.examples("train", COUNT)


@pytest.mark.parametrize(("record", "replacement"), [(2, 3), (5, 0)])
def test_skip_replaces_a_damaged_record_by_the_next(folder, record, replacement, caplog):
    dataset = open_dataset(str(folder), "label", 4, on_damage="skip")
    intact = read_labels(dataset, 9)
    shard = folder / "train-0000-00001.tfrecord"
    flip_bit(shard, find_starts(shard)[record] + 20)
    expected = np.where(intact == 6 + record, 6 + replacement, intact)
    np.testing.assert_array_equal(read_labels(dataset, 9), expected)
    assert f"00001.tfrecord: skipped 1 damaged record(s): {record}" in caplog.text
    keys = [example["key"] for example in dataset.examples("train", COUNT)]
    expected_keys = [f"k{index}" for index in range(COUNT)]
    expected_keys[6 + record] = f"k{6 + replacement}"
    assert keys == expected_keys


def test_skip_raises_if_all_records_are_damaged(folder):
    shard = folder / "train-0000-00000.tfrecord"
    flip_bit(shard, 0)
    dataset = open_dataset(str(folder), "label", 4, on_damage="skip")
    with (
        pytest.raises(UserError, match="record 0, 1, 2, 3, 4, ... of 6"),
        translate_data_errors(dataset),
    ):
        read_labels(dataset, 3)
