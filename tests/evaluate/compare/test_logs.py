"""Scalars are read from event files, also of runs that were interrupted."""

import math

import pytest
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.compare.logs import read_scalars


def write_log(workdir, start, points, plugin="scalars"):
    """Write an event file of points (seconds after its start, step, name, value)."""
    folder = workdir / "logs"
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"events.out.tfevents.{start}.host.1.0.v2"
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
        for seconds, step, name, value in points:
            entry = Summary.Value(tag=name, metadata=metadata)
            tensor = tf.make_tensor_proto(value, tf.float32)
            entry.tensor.ParseFromString(tensor.SerializeToString())
            event = Event(wall_time=start + seconds, step=step, summary=Summary(value=[entry]))
            writer.write(event.SerializeToString())
    return path


def test_interruptions_and_repeated_steps(tmp_path):
    # The second process starts an hour later from step 10, and computes step 20 again.
    write_log(tmp_path, 1000, [(5, 10, "loss", 4), (7, 20, "loss", 3), (9, 30, "loss", 2.5)])
    write_log(tmp_path, 4600, [(4, 20, "loss", 2), (8, 25, "loss", 1)])
    loss = read_scalars(str(tmp_path))["loss"]
    assert loss.steps == [10, 20, 25]
    assert loss.seconds == [5, 9 + 4, 9 + 8]
    assert loss.values == [4, 2, 1]


def test_all_points_are_read(tmp_path):
    points = [(step, step, "loss", 1 / step) for step in range(1, 3001)]
    write_log(tmp_path, 1000, points)
    loss = read_scalars(str(tmp_path))["loss"]
    assert loss.steps == loss.seconds == list(range(1, 3001))
    assert loss.values == pytest.approx([value for *_, value in points])


def test_values_that_are_not_finite_are_left_out(tmp_path):
    points = [(1, 1, "rate", math.nan), (2, 2, "rate", 3), (3, 3, "rate", math.inf)]
    write_log(tmp_path, 1000, points)
    rate = read_scalars(str(tmp_path))["rate"]
    assert (rate.steps, rate.values) == ([2], [3])


def test_damaged_end_is_ignored(tmp_path):
    path = write_log(tmp_path, 1000, [(1, 1, "loss", 2), (2, 2, "loss", 1)])
    path.write_bytes(path.read_bytes()[:-5])
    assert read_scalars(str(tmp_path))["loss"].steps == [1]


def test_missing_logs_are_reported(tmp_path):
    message = "has no logs: .* contains no scalars"
    with pytest.raises(UserError, match=message):
        read_scalars(str(tmp_path))
    write_log(tmp_path, 1000, [])
    write_log(tmp_path, 2000, [(1, 1, "preview", 0)], plugin="images")
    (tmp_path / "logs/events.out.tfevents.3000.host.1.0.v2").touch()
    with pytest.raises(UserError, match=message):
        read_scalars(str(tmp_path))


def test_summaries_of_tensorflow_are_read(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path / "logs")).as_default():
        for step in (5, 10):
            tf.summary.scalar("evaluation/kid", step / 2, step=step)
            tf.summary.image("preview", tf.zeros([1, 4, 4, 3]), step=step)
    scalars = read_scalars(str(tmp_path))
    assert list(scalars) == ["evaluation/kid"]
    kid = scalars["evaluation/kid"]
    assert kid.steps == [5, 10] and kid.values == [2.5, 5]
    assert 0 <= kid.seconds[0] <= kid.seconds[1] < 60
