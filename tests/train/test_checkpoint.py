"""A checkpoint fits exactly or is refused in one line; none is restored in part."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.train.checkpoint import Checkpointer, restore_weights
from tests.train import tiny


@pytest.fixture(scope="module")
def run(squares):
    run = tiny.Run(tiny.config(squares))
    run.steps(3)
    return run


@pytest.fixture
def saved(run, tmp_path):
    """A workdir with one checkpoint of step 3."""
    Checkpointer(str(tmp_path), run.state, 3).save()
    return tmp_path


@pytest.fixture(scope="module")
def other(squares):
    """A state of the same shape with other values in it."""
    return tiny.Run(tiny.config(squares, seed=1)).state


def values(state):
    found = {}
    for group, value in state.trackables().items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{group}/{name}".rstrip("/"): item.numpy() for name, item in items}
    return found


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_every_variable_comes_back(run, saved, other):
    before, expected = values(other), run.values()
    assert any(np.any(before[name] != expected[name]) for name in expected)
    assert Checkpointer(str(saved), other, 3).restore() == 3
    found = values(other)
    assert found.keys() == expected.keys() == tiny.checkpoint_values(saved).keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_nothing_to_restore(tmp_path, other):
    other.step.assign(0)
    assert Checkpointer(str(tmp_path), other, 3).restore() == 0
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_weights(str(tmp_path), other.denoiser, "weights")
    assert list(tmp_path.iterdir()) == []


def test_the_weights_alone_and_the_average_alone(run, saved, other):
    for name, model in (("weights", run.state.denoiser), ("average0", run.state.averages[0])):
        for variable in other.denoiser.variables:
            variable.assign(np.full(variable.shape, 7.0))
        assert restore_weights(str(saved), other.denoiser, name) == 3
        for found, expected in zip(other.denoiser.variables, model.variables, strict=True):
            np.testing.assert_array_equal(found.numpy(), expected.numpy())
    with pytest.raises(UserError):
        restore_weights(str(saved), other.denoiser, "average1")


def test_of_another_width(saved, squares):
    wider = tiny.Run(tiny.config(squares, model__widths=(24,))).state
    for call in (
        Checkpointer(str(saved), wider, 3).restore,
        lambda: restore_weights(str(saved), wider.denoiser, "weights"),
    ):
        with pytest.raises(UserError, match="step-3 does not fit") as error:
            call()
        one_line(error)


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone", "flipped"])
def test_of_damaged_data(saved, other, damage):
    (data,) = (saved / "checkpoints").glob("*.data-*")
    content = data.read_bytes()
    if damage == "gone":
        data.unlink()
    elif damage == "flipped":
        middle = len(content) // 2
        flipped = bytes(255 - byte for byte in content[middle : middle + 64])
        data.write_bytes(content[:middle] + flipped + content[middle + 64 :])
    else:
        data.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    with pytest.raises(
        UserError, match="step-3 does not fit this config and version, or is damag"
    ) as e:
        Checkpointer(str(saved), other, 3).restore()
    one_line(e)


@pytest.mark.parametrize("name", ["step", "loss_scale", "first_moments", "average0"])
def test_with_a_variable_missing_or_too_many(tmp_path, run, other, name):
    """As another version of this package may have written it."""
    missing, more = run.state.trackables(), run.state.trackables()
    if isinstance(missing[name], dict):
        missing[name] = dict(list(missing[name].items())[:-1])
        more[name] = more[name] | {"later": tf.Variable(1.0)}
    else:
        del missing[name]
        more["later"] = tf.Variable(1.0)
    for folder, content in (("missing", missing), ("more", more)):
        checkpoint = tf.train.Checkpoint(**content)
        path = str(tmp_path / folder / "checkpoints")
        manager = tf.train.CheckpointManager(checkpoint, path, 1, checkpoint_name="step")
        manager.save(checkpoint_number=3)
        with pytest.raises(UserError, match="step-3 does not fit") as error:
            Checkpointer(str(tmp_path / folder), other, 3).restore()
        one_line(error)


def test_the_newest_are_kept(tmp_path, run):
    checkpointer = Checkpointer(str(tmp_path), run.state, 2)
    for _ in range(3):
        checkpointer.save()
        run.steps(1)
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*.index")}
    last = int(run.state.step.numpy()) - 1
    assert kept == {f"step-{last - 1}.index", f"step-{last}.index"}
    # As the message says: without the newest, the one before is taken.
    for path in (tmp_path / "checkpoints").glob(f"step-{last}.*"):
        path.unlink()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "checkpoints", moved / "checkpoints")
    for folder in (tmp_path, moved):
        assert Checkpointer(str(folder), run.state, 2).restore() == last - 1
        assert restore_weights(str(folder), run.state.denoiser, "weights") == last - 1
    shutil.rmtree(tmp_path / "checkpoints")
    assert Checkpointer(str(moved), run.state, 2).restore() == last - 1  # its paths are its own
