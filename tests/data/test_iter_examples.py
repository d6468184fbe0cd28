"""All examples of a split, or a part of them that is spread evenly, in the order of the streams."""

import numpy as np
import pytest

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset

COUNT, STREAMS = 37, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 37 records, labeled by index. Its 4 streams have shards of 4, 4 and 2 or 1 records."""
    folder = tmp_path_factory.mktemp("examples")
    records = [
        Record(f"k{index}", np.full((4, 4, 3), index, np.uint8), f"caption {index}", index)
        for index in range(COUNT)
    ]
    names = [f"name {index}" for index in range(COUNT)]
    settings = dict(name="r", num_streams=STREAMS, shard_size=4, label_names=names)
    write_dataset(str(folder), {"train": records}, **settings)
    return folder


def test_all_examples_are_read_once(folder):
    dataset = open_dataset(str(folder), "label", 4)
    by_key = {example["key"]: example for example in dataset.examples("train", COUNT)}
    read = list(dataset.iter_examples("train", COUNT + 5))
    assert len(read) == len(by_key) == COUNT
    for example in read:
        expected = by_key[example["key"]]
        np.testing.assert_array_equal(example["image"], expected["image"])
        assert example["condition"] == expected["condition"]


def test_limit_takes_as_many_examples_of_each_stream_spread_evenly(folder):
    """Record i is in stream i mod STREAMS. The streams have 9 or 10 records, 4 in a shard."""
    dataset = open_dataset(str(folder), "label", 4)
    keys = [example["key"] for example in dataset.examples("train", COUNT)]
    limited = [example["key"] for example in dataset.iter_examples("train", 3 * STREAMS)]
    expected = [keys[stream::STREAMS] for stream in range(STREAMS)]
    expected = [keys[len(keys) * i // 3] for keys in expected for i in range(3)]
    assert limited == expected
    assert len(list(dataset.iter_examples("train", 5))) == 5


def test_limit_above_the_size_of_a_split_with_unequal_streams_reads_everything(tmp_path):
    """One stream has 9 of 10 records."""
    image = np.zeros((4, 4, 3), np.uint8)
    records = [Record(str(index), image, label=0) for index in range(10)]
    write_dataset(
        str(tmp_path),
        {"train": records},
        name="unequal",
        num_streams=2,
        streams_of=lambda _, record: range(1) if record.key != "3" else range(1, 2),
        label_names=["any"],
    )
    read = open_dataset(str(tmp_path), "label", 4).iter_examples("train", 10)
    assert {example["key"] for example in read} == {record.key for record in records}
