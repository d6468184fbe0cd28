"""The doctor finds each planted fault, and none if training works."""

import json

import pytest
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING
from t2i_tpu.run import doctor, workdir
from tests import tiny
from tests.assertions import assert_mentions


def examine(config, workdir=None):
    """Return the findings by subject."""
    return {finding.subject: finding for finding in doctor.examine(config, workdir)}


def test_run_that_works_has_no_problems(tmp_path, squares):
    findings = examine(tiny.make_config(squares), str(tmp_path / "run"))
    assert "precision" in findings  # its status depends on the machine
    for subject in ("tensorflow", "CPU", "workdir", "data", "disk", "memory"):
        assert findings[subject].status == OK, findings[subject]
    assert "32 examples" in findings["data"].text
    assert tf.__version__ in findings["tensorflow"].text
    assert list(tmp_path.iterdir()) == []


def test_only_the_machine_is_checked_without_a_config():
    assert examine(None).keys() == {"tensorflow", "CPU", "precision"}


@pytest.mark.parametrize(
    ("changes", "subject", "status", "words"),
    [
        (dict(data__source="shards:/no/such/folder"), "data", PROBLEM, ["/no/such/folder"]),
        (dict(data__source="embedded:emojis"), "data", PROBLEM, ["emojis"]),
        (dict(data__source="idx:/no/such/folder"), "data", PROBLEM, ["/no/such/folder"]),
        (dict(train__keep_checkpoints=10**9), "disk", PROBLEM, ["keep fewer", "needed"]),
        (dict(train__keep_best=10**9), "disk", PROBLEM, ["up to 1000000003 kept"]),
        (dict(train__keep_every=1, train__total_steps=10**9), "disk", PROBLEM, ["keep fewer"]),
        (dict(train__global_batch_size=4 * 10**7), "memory", WARNING, ["global_batch_size"]),
        (dict(train__dtype_policy="mixed_float16"), "precision", WARNING, ["mixed_float16"]),
    ],
)
def test_fault_is_found(tmp_path, squares, changes, subject, status, words):
    finding = examine(tiny.make_config(squares, **changes), str(tmp_path / "run"))[subject]
    assert finding.status == status and (finding.remedy or subject == "data")
    assert_mentions(str(finding), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["notes.txt", "manifest.json"])
def test_workdir_with_other_files_is_found(tmp_path, squares, content):
    (tmp_path / content).write_text("mine")
    finding = examine(tiny.make_config(squares), str(tmp_path))["workdir"]
    assert finding.status == PROBLEM and content in finding.text


def test_doctor_finds_what_training_refuses(tmp_path, squares, monkeypatch):
    config, folder = tiny.make_config(squares), str(tmp_path / "run")
    workdir.write(folder, config, read_manifest(str(squares)), str(squares))
    assert examine(config, folder)["workdir"].status == OK
    changed = examine(tiny.make_config(squares, seed=7), folder)["workdir"]
    assert changed.status == PROBLEM and "config.seed: 0 != 7" in changed.text

    captions = examine(tiny.make_config(squares, preview__captions=("no such",)))["data"]
    assert captions.status == PROBLEM and "config.preview.captions" in str(captions)
    streams = examine(tiny.make_config(squares, train__global_batch_size=6))["data"]
    assert streams.status == PROBLEM and "4 streams" in str(streams)
    unknown = examine(tiny.make_config(squares, model__conditioning="nosuch"))["config"]
    assert unknown.status == PROBLEM and "nosuch" in unknown.text

    hosts = {"worker": ["a:1", "b:1", "c:1"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": task}))
    assert "number of replicas, 3" in str(examine(config)["data"])
    monkeypatch.setenv("TF_CONFIG", "{")
    assert "TF_CONFIG is not JSON" in examine(config)["data"].text


def test_impossible_config_is_found():
    config = Config()
    config.train.total_steps = 0
    finding = examine(config)["config"]
    assert finding.status == PROBLEM and "total_steps is 0" in finding.text


def test_unreadable_shard_is_found(tmp_path):
    tiny.write_squares(tmp_path)
    shard = tmp_path / "train-0000-00000.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 255]) + content[1:])  # the size stays the same
    finding = examine(tiny.make_config(tmp_path))["data"]
    assert finding.status == PROBLEM and "damaged" in finding.text


def test_data_is_not_prepared(tmp_path, fashion_mnist_idx, monkeypatch):
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    config = tiny.make_config(
        "x", data__source=f"idx:{fashion_mnist_idx}", model__conditioning="label"
    )
    finding = examine(config)["data"]
    assert finding.status == OK and "will be converted" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_check_run_reports_only_problems(tmp_path, squares, caplog):
    config = tiny.make_config(squares)
    doctor.check_run(config, str(tmp_path / "run"), checkpoint_bytes=10**6)
    assert not caplog.records and list(tmp_path.iterdir()) == []
    config.train.keep_checkpoints = 10**9
    with pytest.raises(UserError, match="^disk: .*keep fewer"):
        doctor.check_run(config, str(tmp_path / "run"), checkpoint_bytes=10**6)
