"""What a run would meet here: each fault planted, and the figures against the real thing."""

import re

import pytest
import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import doctor
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.checkpoint_store import Retention
from t2i_tpu.train.state import TrainState
from tests import tiny
from tests.assertions import assert_mentions


def examined(config, workdir):
    """subject -> finding; the statuses of the others are left to the machine."""
    return {finding.subject: finding for finding in doctor.examine(config, workdir)}


def test_a_run_that_can_work(tmp_path, squares):
    found = examined(tiny.config(squares), str(tmp_path / "run"))
    assert set(found) >= {"tensorflow", "CPU", "precision", "workdir", "data", "disk", "memory"}
    for subject in ("tensorflow", "CPU", "workdir", "data", "disk", "memory"):
        assert found[subject].status == OK, found[subject]
    assert "32 examples" in found["data"].text and tf.__version__ in found["tensorflow"].text
    assert list(tmp_path.iterdir()) == []


def test_without_a_config_or_a_workdir():
    assert set(examined(None, None)) == {"tensorflow", "CPU", "precision"}


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
def test_each_fault(tmp_path, squares, changes, subject, status, words):
    found = examined(tiny.config(squares, **changes), str(tmp_path / "run"))
    assert found[subject].status == status and (found[subject].remedy or subject == "data")
    assert_mentions(str(found[subject]), words)
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_cannot_be(tmp_path):
    config = Config()
    config.train.total_steps = 0
    found = examined(config, None)
    assert found["config"].status == PROBLEM and "total_steps is 0" in found["config"].text


def test_a_shard_that_cannot_be_read(tmp_path, squares):
    tiny.write(tmp_path / "data")
    shard = tmp_path / "data" / "train-0000-00000.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 255]) + content[1:])  # of the right size
    found = examined(tiny.config(tmp_path / "data"), None)
    assert found["data"].status == PROBLEM and "damaged" in found["data"].text


def test_data_that_would_be_prepared_are_not(tmp_path, fashion_mnist_idx, monkeypatch):
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    config = tiny.config("x", data__source=f"idx:{fashion_mnist_idx}", model__conditioning="label")
    found = examined(config, None)
    assert found["data"].status == OK and "will be converted" in found["data"].text
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_a_checkpoint_is_that_on_disk(tmp_path, squares):
    config = tiny.config(squares, model__widths=(64,))
    said = examined(config, str(tmp_path / "run"))["disk"].text
    state = TrainState(config, read_manifest(str(squares)), "float32", tf.distribute.get_strategy())
    checkpointer = Checkpointer(str(tmp_path), state.trackables(), Retention(1))
    checkpointer.save()
    checkpointer.finish()
    on_disk = sum(
        path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()
    )
    assert abs(int(re.match(r"(\d+) MB a checkpoint", said)[1]) - on_disk / 1e6) < 1


def test_memory_counts_every_result_of_every_image(squares):
    config, manifest = tiny.config(squares), read_manifest(str(squares))
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    denoiser = build_denoiser(config, manifest.channels, spec, "float32")
    one, three = (doctor.count_forward_bytes(denoiser, batch) for batch in (16, 48))
    fixed = (3 * one - three) / 2  # the weights' casts and the like
    assert 0 <= fixed < one
    # At the least the stem's and the last block's 16 channels of float32 at 16x16.
    assert one - fixed > 16 * 2 * 16 * 16 * 16 * 4


def test_in_brief(tmp_path, squares, caplog):
    config = tiny.config(squares)
    doctor.check_run(config, str(tmp_path / "run"), checkpoint_bytes=10**6)
    assert not caplog.records and list(tmp_path.iterdir()) == []
    config.train.keep_checkpoints = 10**9
    with pytest.raises(UserError, match="^disk: .*keep fewer"):
        doctor.check_run(config, str(tmp_path / "run"), checkpoint_bytes=10**6)
