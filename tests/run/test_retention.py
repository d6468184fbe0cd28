"""The right checkpoints are kept: the newest, the periodic and the best."""

import dataclasses
import itertools
import math

import pytest

from t2i_tpu.run import checkpoint_store, evaluations
from t2i_tpu.run.retention import Retention


@pytest.fixture
def write(tmp_path):
    """`write({step: loss})` writes the info files of checkpoints; a loss may be None."""

    def write_checkpoints(losses):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        for step, loss in losses.items():
            checkpoint_store.commit(str(tmp_path), step, {} if loss is None else {"loss": loss})

    return write_checkpoints


def list_kept(workdir, retention):
    steps = checkpoint_store.list_steps(str(workdir))
    return sorted(set(steps) - set(retention.list_expired(str(workdir))))


def write_evaluations(workdir, figures):
    for step, values in figures.items():
        evaluations.write(str(workdir), step, {"figures": values})


def test_the_last_the_periodic_and_the_best_are_kept(tmp_path, write):
    write({100: 0.5, 200: 0.1, 250: 0.3, 300: 0.2, 350: 0.4, 400: None})
    assert list_kept(tmp_path, Retention(last=2)) == [350, 400]
    assert list_kept(tmp_path, Retention(last=1, every=200)) == [200, 400]
    assert list_kept(tmp_path, Retention(last=1, best=2)) == [200, 300, 400]
    assert list_kept(tmp_path, Retention(last=2, every=100, best=1)) == [100, 200, 300, 350, 400]
    for last, every, best in itertools.product((1, 9), (0, 1), (0, 9)):
        assert 400 in list_kept(tmp_path, Retention(last, every, best))


def test_best_is_the_lowest_or_the_highest_figure(tmp_path, write):
    """Step 4 is the best by its loss only. Step 5 is not evaluated yet."""
    write({1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2, 5: 0.3})
    figures = {
        1: {"kid": 0.3, "condition_accuracy": 0.7, "heldout_loss": 0.2},
        2: {"kid": -0.1, "condition_accuracy": 0.1, "heldout_loss": 0.1},
        3: {"kid": 0.2, "condition_accuracy": 0.9, "heldout_loss": 0.3},
        4: {"kid": math.nan, "heldout_loss": 0.4},
    }
    write_evaluations(tmp_path, figures)
    assert list_kept(tmp_path, Retention(1, best=1)) == [4, 5]
    assert list_kept(tmp_path, Retention(1, best=1, metric="kid")) == [2, 5]
    assert list_kept(tmp_path, Retention(1, best=2, metric="kid")) == [2, 3, 5]
    assert list_kept(tmp_path, Retention(1, best=1, metric="condition_accuracy")) == [3, 5]
    assert list_kept(tmp_path, Retention(1, best=2, metric="condition_accuracy")) == [1, 3, 5]
    assert list_kept(tmp_path, Retention(1, best=3, metric="heldout_loss")) == [1, 2, 3, 5]


@pytest.mark.parametrize("content", ["", "[]", '{"figures": {"kid": "low"}}', '{"step": 1}'])
def test_damaged_evaluation_counts_as_missing(tmp_path, write, content):
    write({1: 0.1, 2: 0.2, 3: 0.3})
    write_evaluations(tmp_path, {1: {"kid": 0.1}, 2: {"kid": 0.2}})
    (tmp_path / "evaluations" / "step_00000001.json").write_text(content)
    assert list_kept(tmp_path, Retention(1, best=1, metric="kid")) == [2, 3]
    assert list(evaluations.read_all(str(tmp_path))) == [2]


def test_evaluations_after_a_rollback_are_removed(tmp_path):
    write_evaluations(tmp_path, {step: {"kid": step} for step in (5, 10, 15)})
    (tmp_path / "evaluations" / "notes.txt").touch()
    evaluations.remove_after(str(tmp_path), 5)
    names = {path.name for path in (tmp_path / "evaluations").iterdir()}
    assert names == {"step_00000005.json", "notes.txt"}
    evaluations.remove_after(str(tmp_path / "absent"), 0)


def test_checkpoint_of_another_format_has_no_loss(tmp_path):
    """An error would also end the write of a new checkpoint, which looks for the best ones."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.9)):
        info = checkpoint_store.CheckpointInfo(step, {"loss": loss}, {})
        if step == 2:
            info = dataclasses.replace(info, format_version=checkpoint_store.FORMAT_VERSION + 1)
        (folder / f"step-{step}.json").write_text(info.to_json())
    assert Retention(last=1, best=1).list_expired(str(tmp_path)) == [2]
