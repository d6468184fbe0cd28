"""Tests that every function of TensorFlow's gs:// client that we use works with the harness."""

import posixpath

import numpy as np
import pytest
import tensorflow as tf

from tests.gcs.harness import FAULTS, Faults

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()


def write(path, content):
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def read(path):
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def check_gfile(bucket):
    """Write, append, list, glob, rename and remove files, and check the results."""
    gfile = tf.io.gfile
    write(f"{bucket}/a/one.bin", CONTENT)
    write(f"{bucket}/a/b/empty", b"")
    gfile.makedirs(f"{bucket}/a/folder")
    assert read(f"{bucket}/a/one.bin") == CONTENT
    assert gfile.stat(f"{bucket}/a/one.bin").length == len(CONTENT)
    assert gfile.exists(f"{bucket}/a/b/empty") and not gfile.exists(f"{bucket}/a/none")
    assert gfile.isdir(f"{bucket}/a") and not gfile.isdir(f"{bucket}/a/one.bin")
    assert sorted(gfile.listdir(f"{bucket}/a")) == ["b/", "folder/", "one.bin"]
    assert gfile.glob(f"{bucket}/a/*.bin") == [f"{bucket}/a/one.bin"]
    gfile.rename(f"{bucket}/a/one.bin", f"{bucket}/a/two.bin")
    # Do not check that one.bin is gone: if the response to the deletion was lost, the client's cache
    # may report for five seconds that it exists.
    assert read(f"{bucket}/a/two.bin") == CONTENT
    write(f"{bucket}/a/one.bin", b"new")
    gfile.rename(f"{bucket}/a/one.bin", f"{bucket}/a/two.bin", overwrite=True)
    assert read(f"{bucket}/a/two.bin") == b"new"
    with gfile.GFile(f"{bucket}/a/two.bin", "ab") as file:
        file.write(b"er")
    assert read(f"{bucket}/a/two.bin") == b"newer"
    gfile.remove(f"{bucket}/a/two.bin")
    gfile.rmtree(f"{bucket}/a/b")


def write_records_and_checkpoints(bucket):
    """Write records and checkpoints, and return the records, checkpoints and weights as read back."""
    path = f"{bucket}/data/x.tfrecord"
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(500):
            writer.write(b"%d " % index * 100)
    records = list(tf.data.TFRecordDataset(path, buffer_size=1 << 20).as_numpy_iterator())

    weights = tf.Variable(tf.zeros([200_000]))
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(weights=weights), posixpath.join(bucket, "run"), max_to_keep=2
    )
    for step in range(1, 4):
        weights.assign(tf.range(200_000, dtype=tf.float32) * step)
        manager.save(step)
    weights.assign(tf.zeros([200_000]))
    manager.checkpoint.restore(tf.train.latest_checkpoint(manager.directory)).assert_consumed()
    kept = [posixpath.basename(path) for path in manager.checkpoints]
    return records, kept, weights.numpy()


def check_result(result):
    records, kept, weights = result
    assert records == [b"%d " % index * 100 for index in range(500)]
    assert kept == ["ckpt-2", "ckpt-3"]
    np.testing.assert_array_equal(weights, np.arange(200_000, dtype=np.float32) * 3)


def test_without_faults(gcs, bucket):
    gcs.call(check_gfile, bucket)
    assert gcs.files(bucket) == {"a/folder/": b""}
    check_result(gcs.call(write_records_and_checkpoints, bucket))


def test_with_a_tenth_of_the_requests_failing(gcs, bucket):
    with gcs.inject_faults(Faults(0.1, seed=1)):
        gcs.call(check_gfile, bucket)
        check_result(gcs.call(write_records_and_checkpoints, bucket))
        assert sum(gcs.report()["faults"].values()) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FAULTS, "slow"])
def test_each_kind_of_fault(gcs, bucket, kind):
    with gcs.inject_faults(Faults(0.1 if kind == "slow" else 0.3, [kind])):
        gcs.call(check_gfile, bucket)
        check_result(gcs.call(write_records_and_checkpoints, bucket))
        assert gcs.report()["faults"][kind] >= 5
