"""Tests when event files are written, and on which hosts. Other tests use gs://."""

import tensorflow as tf

from t2i_tpu.training.event_files import EventFiles


def write_scalar(event_files):
    with event_files.writer.as_default(step=1):
        tf.summary.scalar("loss", 2.0)


def test_only_the_chief_writes_and_only_in_the_block(tmp_path):
    chief = EventFiles(str(tmp_path / "chief"), is_chief=True)
    other = EventFiles(str(tmp_path / "other"), is_chief=False)
    assert list(tmp_path.iterdir()) == []  # a run that fails at its start leaves nothing behind
    for event_files in (chief, other):
        with event_files:
            write_scalar(event_files)
            event_files.copy()
    (path,) = tmp_path.rglob("events.out.*")
    assert path.parent.name == "chief"
    assert [b"loss" in record.numpy() for record in tf.data.TFRecordDataset(str(path))][-1]
