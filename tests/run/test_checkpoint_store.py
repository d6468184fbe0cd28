"""Which checkpoints of a workdir count, which are passed over and which are kept."""

import dataclasses
import itertools
import json
import os

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint_store import CheckpointInfo, Retention


@pytest.fixture
def put(tmp_path):
    """`put(step, loss)`: a checkpoint of two small files."""

    def put(step, loss=None):
        folder = tmp_path / "checkpoints"
        folder.mkdir(exist_ok=True)
        for name in ("index", "data-00000-of-00001"):
            (folder / f"step-{step}.{name}").write_text(f"{name} of {step}")
        checkpoint_store.commit(str(tmp_path), step, {} if loss is None else {"loss": loss})
        return folder

    return put


def good(workdir, **arguments):
    return [version.step for version in checkpoint_store.iter_intact(str(workdir), **arguments)]


def kept(workdir, keep):
    return sorted(
        set(checkpoint_store.list_steps(str(workdir))) - set(keep.expired_steps(str(workdir)))
    )


def test_the_newest_is_that_of_the_highest_step(tmp_path, put):
    """Whatever the clock said when it was written: here it went back, and far ahead."""
    for age, step in enumerate((9, 100, 20)):
        folder = put(step)
        for path in folder.glob(f"step-{step}.*"):
            os.utime(path, (1e9 * age, 2e9 - 1e9 * age))
    assert checkpoint_store.list_steps(str(tmp_path)) == good(tmp_path) == [100, 20, 9]
    assert good(tmp_path, before=100) == [20, 9]
    assert kept(tmp_path, Retention(last=1)) == [100]


@pytest.mark.parametrize("damage", ["gone", "empty", "longer", "other", "manifest", "renamed"])
def test_the_one_before_a_damaged_one(tmp_path, put, damage, caplog):
    put(10)
    folder = put(20)
    data, manifest = folder / "step-20.data-00000-of-00001", folder / "step-20.json"
    if damage == "gone":
        data.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text().replace('"step": 20', '"step": 21'))
    elif damage == "renamed":
        manifest.write_text((folder / "step-10.json").read_text())
    else:
        text = data.read_text()
        data.write_text({"empty": "", "longer": text + "x", "other": text[::-1]}[damage])
    assert good(tmp_path) == [10]
    assert len(caplog.messages) == 1 and "checkpoint of step 20 passed over: " in caplog.text
    assert "\n" not in caplog.messages[0]


def test_none_whole_is_an_error_and_no_new_beginning(tmp_path, put):
    for step in (10, 20):
        (put(step) / f"step-{step}.index").unlink()
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole \(2 tried\)"):
        good(tmp_path)


def test_a_write_that_was_cut_short_is_none(tmp_path, put, caplog):
    """Killed in the very first checkpoint: begin anew. Later: the one before."""
    folder = put(10)
    (folder / "step-10.json").unlink()
    assert good(tmp_path) == [] and "step 10 passed over: it was not written" in caplog.text
    put(5)
    (folder / "step-20_temp").mkdir()
    (folder / "step-20_temp" / "part-00000-of-00001.index").touch()
    (folder / "step-30.json.tmp").touch()
    (folder / "notes.txt").touch()
    assert good(tmp_path) == [5]
    checkpoint_store.remove_unfinished(str(tmp_path))
    names = {path.name for path in folder.iterdir()}
    assert names == {"step-5.index", "step-5.data-00000-of-00001", "step-5.json", "notes.txt"}


def test_whatever_is_left_of_a_removal_is_whole_or_none(tmp_path, put):
    folder = put(10)
    put(20)
    removed = []
    listed = set(folder.iterdir())

    def watch(path):
        removed.append(path)
        assert good(tmp_path) == [10]

    for path in sorted(folder.glob("step-20.*"), key=lambda path: path.suffix != ".json"):
        path.unlink()
        watch(path)
    assert len(removed) == 3 and len(listed) == 6
    put(20)
    checkpoint_store.remove(str(tmp_path), 20)
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"step-10"}


def test_of_other_versions_of_this_package(tmp_path, put):
    folder = put(10)
    version = checkpoint_store.read_info(str(tmp_path), 10)
    newer = dataclasses.replace(version, format_version=2, package_version="9.9.9")
    (folder / "step-10.json").write_text(newer.to_json())
    with pytest.raises(UserError, match="format 2, written by t2i_tpu 9.9.9.*reads format 1"):
        good(tmp_path)
    for path in folder.iterdir():  # as tf.train.CheckpointManager leaves it
        path.unlink()
    for name in ("checkpoint", "step-10.index", "step-10.data-00000-of-00001"):
        (folder / name).touch()
    with pytest.raises(UserError, match="before its checkpoints had manifests"):
        good(tmp_path)


def test_a_manifest_is_the_only_text_of_its_meaning():
    version = CheckpointInfo(3, {"loss": 0.5}, {"step-3.index": (5, "0" * 64)})
    content = version.to_json().encode()
    assert CheckpointInfo.from_json(content) == version
    other = json.dumps(json.loads(content)).encode()  # the same values, other white space
    for damaged in (b"", b"[]", b"{}", b"null", content[:-1], content + b" ", other, b"\xff"):
        with pytest.raises(checkpoint_store.DamagedCheckpoint):
            CheckpointInfo.from_json(damaged)


def test_what_is_kept(tmp_path, put):
    losses = {100: 0.5, 200: 0.1, 250: 0.3, 300: 0.2, 350: 0.4, 400: None}
    for step, loss in losses.items():
        put(step, loss)
    assert kept(tmp_path, Retention(last=2)) == [350, 400]
    assert kept(tmp_path, Retention(last=1, every=200)) == [200, 400]
    assert kept(tmp_path, Retention(last=1, best=2)) == [200, 300, 400]
    assert kept(tmp_path, Retention(last=2, every=100, best=1)) == [100, 200, 300, 350, 400]
    for last, every, best in itertools.product((1, 9), (0, 1), (0, 9)):
        assert 400 in kept(tmp_path, Retention(last, every, best))
