"""Files that anything may have happened to: a UserError, never another exception, nor a silent yes."""

import contextlib
import copy
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2i_tpu import config as config_lib
from t2i_tpu.data.manifest import MANIFEST_NAME, read_manifest
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record, serialize
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store, workdir
from t2i_tpu.run.rollbacks import Rollbacks
from tests import tiny

SETTINGS = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def mangled(draw, text):
    """Bytes that were the JSON `text`: a value in it replaced or removed, or bytes cut and changed."""
    if draw(st.booleans()):
        content = bytearray(text.encode())
        for _ in range(draw(st.integers(1, 3))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, len(content)))])
    root = {"root": copy.deepcopy(json.loads(text))}
    node, key = root, "root"
    while isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 9)):
        node = node[key]
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(list(keys)))
    if isinstance(node, dict) and node is not root and draw(st.integers(0, 3)) == 0:
        del node[key]
    else:
        node[key] = draw(values)
    return json.dumps(root["root"]).encode()


@pytest.fixture
def folder(squares, tmp_path):
    """A copy of the data set."""
    shutil.copytree(squares, tmp_path / "data")
    return tmp_path / "data"


@SETTINGS
@given(data=st.data())
def test_the_manifest_of_a_data_set(folder, data):
    original = (folder / MANIFEST_NAME).read_text()
    try:
        (folder / MANIFEST_NAME).write_bytes(data.draw(mangled(original)))
        try:
            dataset = open_dataset(str(folder), "embedding", 16)
            with translate_data_errors(dataset):
                dataset.examples("train", 1)
        except UserError as error:
            assert "\n" not in str(error)
    finally:
        (folder / MANIFEST_NAME).write_text(original)


@SETTINGS
@given(data=st.data())
def test_the_config_and_manifest_of_a_workdir(squares, tmp_path, data):
    config, manifest = tiny.config(squares), read_manifest(str(squares))
    workdir.write(str(tmp_path), config, manifest, str(tmp_path))
    path = tmp_path / data.draw(st.sampled_from([workdir.CONFIG_NAME, MANIFEST_NAME]))
    path.write_bytes(data.draw(mangled(path.read_text())))
    try:
        found, _ = workdir.read(str(tmp_path))
        config_lib.resolve(found)
    except UserError:
        pass


@SETTINGS
@given(data=st.data())
def test_the_manifest_of_a_checkpoint(data):
    version = checkpoint_store.CheckpointInfo(3, {"loss": 0.5}, {"step-3.index": (5, "0" * 64)})
    content = data.draw(mangled(version.to_json()))
    with contextlib.suppress(checkpoint_store.DamagedCheckpoint, UserError):
        assert checkpoint_store.CheckpointInfo.from_json(content) == version


@SETTINGS
@given(data=st.data())
def test_the_record_of_rollbacks(tmp_path, data):
    text = json.dumps([{"at": 9, "to": 5}, {"at": 8, "to": 3}])
    (tmp_path / "rollbacks.json").write_bytes(data.draw(mangled(text)))
    with contextlib.suppress(UserError):
        assert 0 <= Rollbacks(str(tmp_path)).learning_rate_scale <= 1


def read(folder):
    """Every record, eagerly: the pipelines of `batches` take a second to build."""
    dataset = open_dataset(str(folder), "embedding", 16)
    with translate_data_errors(dataset):
        dataset.examples("train", 32)


@settings(SETTINGS, max_examples=40)
@given(data=st.data())
def test_the_bytes_of_a_shard(folder, data):
    path = folder / "train-0001-00001.tfrecord"
    original = path.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        path.write_bytes(bytes(content))
        if bytes(content) == original:
            read(folder)
        else:
            with pytest.raises(UserError):
                read(folder)
    finally:
        path.write_bytes(original)


@settings(SETTINGS, max_examples=40)
@given(data=st.data())
def test_the_records_of_a_shard(folder, data):
    """As another program may have written them: the checksums are right, the content is anything."""
    rng = np.random.default_rng(0)
    image, embedding = np.zeros((16, 16, 3), np.uint8), rng.normal(size=128)
    serialized = bytearray(serialize(Record("key", image, "x", 0, embedding, [1]), "png"))
    for _ in range(data.draw(st.integers(0, 3))):
        serialized[data.draw(st.integers(0, len(serialized) - 1))] = data.draw(st.integers(0, 255))
    path, manifest = folder / "train-0001-00001.tfrecord", folder / MANIFEST_NAME
    originals = path.read_bytes(), manifest.read_text()
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(3):
                writer.write(bytes(serialized[: data.draw(st.integers(0, len(serialized)))]))
        sizes = f'"num_bytes": {len(originals[0])}', f'"num_bytes": {path.stat().st_size}'
        manifest.write_text(originals[1].replace(*sizes))
        read(folder)
    except UserError:
        pass
    finally:
        path.write_bytes(originals[0])
        manifest.write_text(originals[1])
