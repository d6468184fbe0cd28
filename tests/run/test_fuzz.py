"""Files with arbitrary damage: each is rejected with a UserError, or is as good as the original."""

import copy
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2i_tpu import config as config_lib
from t2i_tpu.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record, serialize
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store, workdir
from t2i_tpu.run.rollbacks import LEARNING_RATE_FACTOR, Rollbacks
from tests import tiny

SETTINGS = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Some fields may change when a run is resumed.
CHANGEABLE = (
    "config.train.",
    "config.data.on_damage",
    "config.data.source",
    "config.preview.captions",
    "config.sample.",
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
def mangle(draw, text):
    """Damage a JSON text: replace or remove one of its values, or change and cut its bytes."""
    if draw(st.booleans()):
        content = bytearray(text.encode())
        overwrite_bytes(draw, content, draw(st.integers(1, 3)))
        return bytes(content[: draw(st.integers(0, len(content)))])
    # Walk to a random value.
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


def overwrite_bytes(draw, content, count):
    for _ in range(count):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))


@pytest.fixture
def folder(squares, tmp_path):
    """The folder of a copy of the data set."""
    shutil.copytree(squares, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def originals(squares):
    """The training examples of the data set by key."""
    return {example["key"]: example for example in read_examples(squares)}


def read_examples(folder, count=32):
    """Return training examples. They are read eagerly, because building a pipeline takes a second."""
    dataset = open_dataset(str(folder), "embedding", 16)
    with translate_data_errors(dataset):
        return dataset.examples("train", count)


def assert_equal_examples(example, expected):
    assert example["caption"] == expected["caption"]
    np.testing.assert_array_equal(example["image"], expected["image"])
    assert example["condition"].keys() == expected["condition"].keys()
    for name, value in expected["condition"].items():
        np.testing.assert_array_equal(example["condition"][name], value)


def assert_one_line(error):
    assert str(error) and "\n" not in str(error)


@SETTINGS
@given(data=st.data())
def test_damaged_manifest_is_rejected_or_harmless(folder, originals, data):
    """With an accepted manifest, the reader returns the original examples."""
    original = (folder / MANIFEST_NAME).read_text()
    try:
        (folder / MANIFEST_NAME).write_bytes(data.draw(mangle(original)))
        (example,) = read_examples(folder, 1)
    except UserError as error:
        assert_one_line(error)
    else:
        assert_equal_examples(example, originals[example["key"]])
    finally:
        (folder / MANIFEST_NAME).write_text(original)


@SETTINGS
@given(data=st.data())
def test_damaged_workdir_file_is_rejected_or_valid(squares, tmp_path, data):
    """Accepted files are valid, and belong to the same run only if they describe the same run."""
    config, manifest = tiny.make_config(squares), read_manifest(str(squares))
    workdir.write(str(tmp_path), config, manifest, str(tmp_path))
    path = tmp_path / data.draw(st.sampled_from([workdir.CONFIG_NAME, MANIFEST_NAME]))
    path.write_bytes(data.draw(mangle(path.read_text())))
    try:
        read_config, written_manifest = workdir.read(str(tmp_path))
        resolved = config_lib.resolve(read_config)
    except UserError as error:
        assert_one_line(error)
        return
    assert config_lib.resolve(resolved) == resolved
    assert Manifest.from_json(written_manifest.to_json()) == written_manifest
    try:
        workdir.check(str(tmp_path), config, manifest)
    except UserError as error:
        assert_one_line(error)
        assert read_config != config or written_manifest != manifest
    else:
        changes = config_lib.differences(read_config, config)
        assert all(line.startswith(CHANGEABLE) for line in changes)
        assert written_manifest == manifest


@SETTINGS
@given(data=st.data())
def test_damaged_info_file_is_rejected(data):
    """It contains its own hash, so only the original is accepted."""
    info = checkpoint_store.CheckpointInfo(3, {"loss": 0.5}, {"step-3.index": (5, "0" * 64)})
    content = data.draw(mangle(info.to_json()))
    try:
        parsed = checkpoint_store.CheckpointInfo.from_json(content)
    except (checkpoint_store.DamagedCheckpoint, UserError) as error:
        assert_one_line(error)
    else:
        assert parsed == info


@SETTINGS
@given(data=st.data())
def test_damaged_rollbacks_file_is_rejected_or_valid(tmp_path, data):
    """Accepted rollbacks are well-formed and stay the same when one more is added."""
    text = json.dumps([{"at": 9, "to": 5}, {"at": 8, "to": 3}])
    (tmp_path / "rollbacks.json").write_bytes(data.draw(mangle(text)))
    try:
        rollbacks = Rollbacks(str(tmp_path))
    except UserError as error:
        assert_one_line(error)
        return
    count = len(rollbacks.records)
    assert count <= 2 and rollbacks.learning_rate_scale == LEARNING_RATE_FACTOR**count
    for record in rollbacks.records:
        assert record.keys() == {"at", "to"} and {type(step) for step in record.values()} == {int}
    rollbacks.add(at=12, to=7, write=True)
    assert Rollbacks(str(tmp_path)).records == rollbacks.records
    assert len(rollbacks.records) == count + 1


@settings(SETTINGS, max_examples=40)
@given(data=st.data())
def test_damaged_shard_is_rejected(folder, originals, data):
    path = folder / "train-0001-00001.tfrecord"
    original = path.read_bytes()
    content = bytearray(original)
    overwrite_bytes(data.draw, content, data.draw(st.integers(1, 3)))
    try:
        path.write_bytes(bytes(content))
        if bytes(content) == original:
            assert {example["key"] for example in read_examples(folder)} == originals.keys()
        else:
            with pytest.raises(UserError):
                read_examples(folder)
    finally:
        path.write_bytes(original)


@settings(SETTINGS, max_examples=40)
@given(data=st.data())
def test_damaged_record_is_rejected_or_well_formed(folder, originals, data):
    """Another program may write records with correct checksums but wrong content.

    If they are accepted, they have the right shapes, and all other examples are unchanged.
    """
    path, manifest = folder / "train-0001-00001.tfrecord", folder / MANIFEST_NAME
    old_shard, old_manifest = path.read_bytes(), manifest.read_text()
    fields = json.loads(old_manifest)
    # Damage a serialized record.
    rng = np.random.default_rng(0)
    image, embedding = np.zeros((16, 16, 3), np.uint8), rng.normal(size=128)
    intact = serialize(Record("key", image, "x", 0, embedding, [1]), fields["image_format"])
    content = bytearray(intact)
    overwrite_bytes(data.draw, content, data.draw(st.integers(0, 3)))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    damaged = bytes(content[:end])
    # Replace the records of a shard, and its size in the manifest.
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(3):
                writer.write(damaged)
        (shard,) = (shard for shard in fields["splits"]["train"][1] if shard["file"] == path.name)
        shard["num_bytes"] = path.stat().st_size
        manifest.write_text(json.dumps(fields))
        examples = read_examples(folder)
    except UserError as error:
        assert_one_line(error)
        assert damaged != intact
    else:
        replaced = [example for example in examples if example["key"] not in originals]
        assert len(examples) == 32 and len(replaced) == 3
        for example in examples:
            if example["key"] in originals:
                assert_equal_examples(example, originals[example["key"]])
        for example in replaced:
            assert example["image"].shape == (16, 16, 3) and example["image"].dtype == np.uint8
            assert example["condition"]["embedding"].shape == (128,)
    finally:
        path.write_bytes(old_shard)
        manifest.write_text(old_manifest)
