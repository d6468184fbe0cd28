"""Counts the requests to gs:// of a start and of log lines: they must not grow with the data."""

import dataclasses

import numpy as np
import pytest
from tensorflow.python.summary import summary_iterator

from t2i_tpu.data.manifest import MANIFEST_NAME
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from tests import tiny
from tests.gcs.harness import Faults

STREAMS = 2


def put_dataset(gcs, folder, address, num_shards):
    """Write a data set whose shards are copies of one shard of 4 examples."""
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    records = [Record(f"k{index}", image, f"caption {index}", 0) for index in range(4)]
    manifest = write_dataset(
        str(folder), {"train": records}, name="n", num_streams=1, label_names=["a"]
    )
    ((shard,),) = manifest.streams("train")
    content = (folder / shard.file).read_bytes()
    names = [f"copy-{index}" for index in range(num_shards)]
    for name in names:
        gcs.put(f"{address}/{name}", content)
    shards = [dataclasses.replace(shard, file=name) for name in names]
    streams = tuple(tuple(shards[stream::STREAMS]) for stream in range(STREAMS))
    manifest = dataclasses.replace(manifest, splits={"train": streams})
    gcs.put(f"{address}/{MANIFEST_NAME}", manifest.to_json().encode())


def read_first_examples(address):
    """Open the data set and read the previews' examples, as training does at its start."""
    dataset = open_dataset(address, "label", 4)
    return [example["caption"] for example in dataset.examples("train", 4, ("caption 1",))]


def count(gcs, *words):
    """Return the number of requests that contain all words."""
    return sum(1 for line in gcs.report()["requests"] if all(word in line for word in words))


@pytest.mark.parametrize("num_shards", [10, 1000])
def test_start_takes_few_requests(gcs, bucket, tmp_path, num_shards):
    put_dataset(gcs, tmp_path / "data", f"{bucket}/data", num_shards)
    with gcs.inject_faults(Faults(0.0)):
        captions = gcs.call(read_first_examples, f"{bucket}/data")
        requests = gcs.report()["requests"]
    assert captions == ["caption 1", "caption 0", "caption 0", "caption 1"]
    print(f"{num_shards} shards: {len(requests)} requests")
    assert len(requests) <= 12, requests


def test_log_lines_upload_nothing(gcs, bucket, squares, config_file, run, tmp_path):
    """The event file is uploaded with the checkpoints, of which there is one, and at the end."""
    data, workdir = gcs.put_folder(squares, f"{bucket}/data"), f"{bucket}/run"
    values = tiny.make_flags(
        data,
        train__total_steps=30,
        train__steps_per_loop=1,
        train__log_every=1,
        train__preview_every=30,
        train__checkpoint_every=30,
    )
    with gcs.inject_faults(Faults(0.0)):
        result = run(
            "train.py",
            [f"--config={config_file}", f"--workdir={workdir}", *values],
            inside=gcs.inside,
        )
        uploads = count(gcs, "upload", "events.out")
        print(f"30 log lines: {uploads} uploads, {count(gcs)} requests")
    assert result.code == 0, result.stderr
    assert uploads <= 2
    (path,) = gcs.get_folder(f"{workdir}/logs", tmp_path / "logs").iterdir()
    events = summary_iterator.summary_iterator(str(path))
    steps = {event.step for event in events for value in event.summary.value if value.tag == "loss"}
    assert steps == set(range(1, 31))
