"""Tests that each source is converted to shards only once, even by concurrent processes."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data import locate as locate_module
from t2i_tpu.data.locate import locate
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("T2I_TPU_CACHE", str(folder))
    return folder


@pytest.fixture
def source(tmp_path, write_idx):
    write_idx(tmp_path / "digits")
    return f"idx:{tmp_path / 'digits'}"


def read_files(folder):
    return {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}


def test_shards_source_is_its_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert locate("shards:/data/set") == "/data/set"
    assert locate("shards:gs://bucket/set") == "gs://bucket/set"
    assert locate("shards:~/set") == "/home/ada/set"


def test_embedded_emoji_exists():
    manifest = read_manifest(locate("embedded:emoji"))
    assert manifest.num_examples("train") > 3000 and manifest.num_examples("heldout") > 100


def test_unknown_embedded_data_set_error_lists_known_ones(tmp_path, monkeypatch, make_records):
    monkeypatch.setattr(locate_module, "_EMBEDDED", str(tmp_path / "embedded"))
    with pytest.raises(UserError, match="no embedded data set 'x'; there is none"):
        locate("embedded:x")
    folder = str(tmp_path / "embedded" / "noise")
    write_dataset(folder, {"train": make_records(2)}, name="noise", num_streams=1)
    (tmp_path / "embedded" / "not_data").mkdir()
    assert locate("embedded:noise") == folder
    with pytest.raises(UserError, match="no embedded data set 'not_data'; there is noise"):
        locate("embedded:not_data")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("emebdded:emoji", "did you mean 'embedded'"),
        ("TFDS:cifar10", "did you mean 'tfds'"),
        ("gs://bucket/set", "did you mean 'shards:gs://bucket/set'"),
        ("/data/set", "did you mean 'shards:/data/set'"),
        ("mnist", "must be embedded:NAME, shards:PATH, idx:FOLDER or tfds:NAME"),
        ("", "must be embedded:NAME"),
        ("idx", "must be embedded:NAME"),
        ("shards:", "has nothing after the colon"),
    ],
)
def test_unknown_source_is_a_one_line_error(source, message):
    with pytest.raises(UserError, match=message) as raised:
        locate(source)
    assert "\n" not in str(raised.value)


def test_idx_is_prepared_once(source, cache, tmp_path, write_idx, read_shards, monkeypatch):
    folder = locate(source)
    manifest = read_manifest(folder)
    assert os.path.dirname(folder) == str(cache) and os.listdir(cache) == [os.path.basename(folder)]
    assert manifest.name == "digits" and (manifest.image_size, manifest.channels) == (28, 1)
    assert manifest.label_names == tuple("0123456789")
    assert manifest.num_streams() == manifest.num_streams("heldout") == 16
    arrays = write_idx(tmp_path / "again")
    for split, prefix in (("train", "train"), ("heldout", "t10k")):
        images, labels = arrays[prefix]
        examples = sorted(read_shards(folder, split), key=lambda example: example["key"])
        np.testing.assert_array_equal([e["image"][:, :, 0] for e in examples], images)
        assert [e["label"] for e in examples] == labels.tolist()
        assert [e["caption"].decode() for e in examples] == [str(label) for label in labels]

    monkeypatch.setattr(locate_module, "write_dataset", None)
    assert locate(source) == folder == locate(source + "/")


def test_changed_content_goes_to_another_folder(source, tmp_path, write_idx):
    first = locate(source)
    write_idx(tmp_path / "digits", train=21)
    second = locate(source)
    assert first != second
    assert read_manifest(first).num_examples("train") == 20
    assert read_manifest(second).num_examples("train") == 21


def test_preparation_is_deterministic(source, tmp_path, monkeypatch):
    first = locate(source)
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path / "other"))
    assert read_files(first) == read_files(locate(source))


def test_default_cache_is_under_home(source, tmp_path, monkeypatch):
    monkeypatch.delenv("T2I_TPU_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(source).startswith(str(tmp_path / ".cache" / "t2i_tpu" / "idx-digits-"))


def test_bad_files_leave_the_cache_empty(source, cache, tmp_path):
    (tmp_path / "digits" / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        locate(source)
    assert not cache.exists() or not os.listdir(cache)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left"),
        tf.errors.ResourceExhaustedError(None, None, "No space left"),
    ],
)
def test_full_disk_is_an_error_and_leaves_the_cache_empty(source, cache, monkeypatch, error):
    def fail(output, *args, **settings):
        with open(os.path.join(output, "train-0000-00000.tfrecord"), "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr(locate_module, "write_dataset", fail)
    with pytest.raises(
        UserError, match="cannot prepare idx:digits .*No space left.*check its free space"
    ) as raised:
        locate(source)
    assert "\n" not in str(raised.value) and os.listdir(cache) == []


def test_unwritable_cache_is_an_error(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot prepare .* in the cache .*set T2I_TPU_CACHE"):
        locate(source)


PROCESS = """
import os, sys, time
from t2i_tpu.data import locate as module
write, (marks, wanted) = module.write_dataset, (sys.argv[2], int(sys.argv[3]))

def write_and_wait(*args, **settings):
    write(*args, **settings)
    open(os.path.join(marks, str(os.getpid())), "w").close()
    while len(os.listdir(marks)) < wanted:
        time.sleep(0.05)

module.write_dataset = write_and_wait
print(module.locate(sys.argv[1]))
"""


def start_locate(source, marks, wanted):
    """Start `locate` in a process that, after writing, waits until `wanted` processes have written."""
    marks.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROCESS, source, str(marks), str(wanted)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.timeout(180)
def test_two_processes_can_prepare_at_the_same_time(source, cache, tmp_path):
    processes = [start_locate(source, tmp_path / "marks", wanted=2) for _ in range(2)]
    printed = [process.communicate(timeout=150)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1] == locate(source)
    assert os.listdir(cache) == [os.path.basename(printed[0])]
    assert read_manifest(printed[0]).num_examples("train") == 20


@pytest.mark.timeout(180)
def test_folder_of_a_killed_process_is_not_used(source, cache, tmp_path):
    process = start_locate(source, tmp_path / "marks", wanted=2)
    while not os.listdir(tmp_path / "marks"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (leftover,) = os.listdir(cache)
    folder = locate(source)
    assert leftover.endswith(".t2i_tpu-partial") and leftover not in folder
    assert read_manifest(folder).num_examples("train") == 20


def test_fashion_mnist_is_prepared(fashion_mnist_idx):
    manifest = read_manifest(locate(f"idx:{fashion_mnist_idx}"))
    assert manifest.label_names[9] == "Ankle boot"
    assert (manifest.num_examples("train"), manifest.num_examples("heldout")) == (60000, 10000)
    for split, size in (("train", 3750), ("heldout", 625)):
        sizes = [sum(shard.num_examples for shard in s) for s in manifest.streams(split)]
        assert sizes == [size] * 16
