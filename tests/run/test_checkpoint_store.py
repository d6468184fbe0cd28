"""The store of checkpoints lists, verifies, skips and removes the right ones."""

import dataclasses
import json
import os

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint_store import CheckpointInfo


@pytest.fixture
def write(tmp_path):
    """`write(step, loss)` writes a checkpoint of two small files and returns its folder."""

    def write_checkpoint(step, loss=None):
        folder = tmp_path / "checkpoints"
        folder.mkdir(exist_ok=True)
        for name in ("index", "data-00000-of-00001"):
            (folder / f"step-{step}.{name}").write_text(f"{name} of {step}")
        checkpoint_store.commit(str(tmp_path), step, {} if loss is None else {"loss": loss})
        return folder

    return write_checkpoint


def list_intact(workdir, **arguments):
    return [info.step for info in checkpoint_store.iter_intact(str(workdir), **arguments)]


def test_newest_checkpoint_has_the_highest_step(tmp_path, write):
    """File times do not matter. Here, they decrease from step to step, or lie far in the future."""
    for age, step in enumerate((9, 100, 20)):
        folder = write(step)
        for path in folder.glob(f"step-{step}.*"):
            os.utime(path, (1e9 * age, 2e9 - 1e9 * age))
    assert checkpoint_store.list_steps(str(tmp_path)) == list_intact(tmp_path) == [100, 20, 9]
    assert list_intact(tmp_path, before=100) == [20, 9]


@pytest.mark.parametrize("damage", ["missing", "empty", "longer", "other", "info", "renamed"])
def test_damaged_checkpoint_is_skipped(tmp_path, write, damage, caplog):
    write(10)
    folder = write(20)
    data, info = folder / "step-20.data-00000-of-00001", folder / "step-20.json"
    if damage == "missing":
        data.unlink()
    elif damage == "info":
        info.write_text(info.read_text().replace('"step": 20', '"step": 21'))
    elif damage == "renamed":
        info.write_text((folder / "step-10.json").read_text())
    else:
        text = data.read_text()
        data.write_text({"empty": "", "longer": text + "x", "other": text[::-1]}[damage])
    assert list_intact(tmp_path) == [10]
    (message,) = caplog.messages
    assert message.startswith("skipping the checkpoint of step 20: ") and "\n" not in message


def test_workdir_without_an_intact_checkpoint_is_an_error(tmp_path, write):
    for step in (10, 20):
        (write(step) / f"step-{step}.index").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact \(2 tried\)"):
        list_intact(tmp_path)


def test_unfinished_checkpoint_does_not_count(tmp_path, write, caplog):
    """If the very first checkpoint is unfinished, training starts over."""
    folder = write(10)
    (folder / "step-10.json").unlink()
    assert list_intact(tmp_path) == []
    assert "skipping the checkpoint of step 10: it was not fully written" in caplog.text
    write(5)
    (folder / "step-20_temp").mkdir()
    (folder / "step-20_temp" / "part-00000-of-00001.index").touch()
    (folder / "step-30.json.t2i_tpu-partial").touch()
    users = {"notes.txt", "step-40.txt", "step-40.index.bak", "step-5.data-copy", "step-40-old"}
    for name in users:
        (folder / name).touch()
    assert list_intact(tmp_path) == [5]
    checkpoint_store.remove_unfinished(str(tmp_path))
    names = {path.name for path in folder.iterdir()}
    assert names == {"step-5.index", "step-5.data-00000-of-00001", "step-5.json", *users}


def test_interrupted_removal_leaves_no_damaged_checkpoint(tmp_path, write):
    """The info file is removed first. From then on, the checkpoint does not count."""
    folder = write(10)
    write(20)
    paths = sorted(folder.glob("step-20.*"), key=lambda path: path.suffix != ".json")
    assert len(paths) == 3
    for path in paths:
        path.unlink()
        assert list_intact(tmp_path) == [10]
    write(20)
    checkpoint_store.remove(str(tmp_path), 20)
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"step-10"}


def test_checkpoints_in_other_formats_are_rejected(tmp_path, write):
    folder = write(10)
    info = checkpoint_store.read_info(str(tmp_path), 10)
    newer = dataclasses.replace(info, format_version=2, package_version="9.9.9")
    (folder / "step-10.json").write_text(newer.to_json())
    with pytest.raises(UserError, match=r"format 2, written by t2i_tpu 9.9.9.*reads format 1"):
        list_intact(tmp_path)
    # tf.train.CheckpointManager, which old versions used, writes these files.
    for path in folder.iterdir():
        path.unlink()
    for name in ("checkpoint", "step-10.index", "step-10.data-00000-of-00001"):
        (folder / name).touch()
    with pytest.raises(UserError, match="have no info files"):
        list_intact(tmp_path)


def test_any_change_of_an_info_file_is_detected():
    info = CheckpointInfo(3, {"loss": 0.5}, {"step-3.index": (5, "0" * 64)})
    content = info.to_json().encode()
    assert CheckpointInfo.from_json(content) == info
    reformatted = json.dumps(json.loads(content)).encode()
    for damaged in (b"", b"[]", b"{}", b"null", content[:-1], content + b" ", reformatted, b"\xff"):
        with pytest.raises(checkpoint_store.DamagedCheckpoint):
            CheckpointInfo.from_json(damaged)
