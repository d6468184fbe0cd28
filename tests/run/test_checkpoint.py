"""A checkpoint fits exactly or is refused in one line; none is restored in part."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint import Checkpointer, restore_weights
from t2i_tpu.run.checkpoint_store import Retention
from tests import tiny


@pytest.fixture(scope="module")
def run(squares):
    run = tiny.Run(tiny.config(squares))
    run.steps(3)
    return run


@pytest.fixture
def saved(run, tmp_path):
    """A workdir with one checkpoint of step 3."""
    save(tmp_path, run.state)
    return tmp_path


@pytest.fixture(scope="module")
def other(squares):
    """A state of the same shape with other values in it."""
    return tiny.Run(tiny.config(squares, seed=1)).state


def save(folder, state):
    checkpointer = Checkpointer(str(folder), state.trackables(), Retention(3))
    checkpointer.save()
    checkpointer.finish()


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
    assert Checkpointer(str(saved), other.trackables(), Retention(3)).restore() == 3
    found = values(other)
    assert found.keys() == expected.keys() == tiny.checkpoint_values(saved).keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_nothing_to_restore(tmp_path, other):
    other.step.assign(0)
    assert Checkpointer(str(tmp_path), other.trackables(), Retention(3)).restore() == 0
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
        Checkpointer(str(saved), wider.trackables(), Retention(3)).restore,
        lambda: restore_weights(str(saved), wider.denoiser, "weights"),
    ):
        with pytest.raises(UserError, match="step-3 does not fit") as error:
            call()
        one_line(error)


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
        workdir = str(tmp_path / folder)
        tf.train.Checkpoint(**content).write(checkpoint_store.get_prefix(workdir, 3))
        checkpoint_store.commit(workdir, 3, {})
        with pytest.raises(UserError, match="step-3 does not fit") as error:
            Checkpointer(str(tmp_path / folder), other.trackables(), Retention(3)).restore()
        one_line(error)


def test_what_is_written_is_the_state_of_the_save(run, tmp_path, squares):
    """The device goes on while a thread writes."""
    going_on = tiny.Run(tiny.config(squares, train__total_steps=100))
    going_on.steps(2)
    expected = going_on.values()
    checkpointer = Checkpointer(str(tmp_path), going_on.state.trackables(), Retention(3))
    checkpointer.save()
    going_on.steps(3)
    checkpointer.save()
    going_on.steps(1)
    checkpointer.finish()
    assert checkpoint_store.list_steps(str(tmp_path)) == [5, 2]
    checkpoint_store.remove(str(tmp_path), 5)
    found = tiny.checkpoint_values(tmp_path)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_weights_that_are_not_finite_are_never_written(run, tmp_path, other):
    other.step.assign(7)
    save(tmp_path, other)
    bias = other.weights[1]
    kept = bias.numpy()
    for value in (np.inf, np.nan):
        other.step.assign(8)
        bias.assign(np.concatenate([kept.ravel()[:-1], [value]]).reshape(kept.shape))
        with pytest.raises(UserError, match="step-8 could not be written: weights/.* not finite"):
            save(tmp_path, other)
    bias.assign(kept)
    assert checkpoint_store.list_steps(str(tmp_path)) == [7]
    save(tmp_path, other)  # what failed once may do better
    assert checkpoint_store.list_steps(str(tmp_path)) == [8, 7]


def test_a_damaged_one_is_passed_over_with_a_line_and_written_anew(run, saved, other, caplog):
    run.state.step.assign(4)
    save(saved, run.state)
    path = saved / "checkpoints" / "step-4.data-00000-of-00001"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert Checkpointer(str(saved), other.trackables(), Retention(3)).restore() == 3
    assert restore_weights(str(saved), other.denoiser, "average0") == 3
    assert "checkpoint of step 4 passed over: step-4.data-00000-of-00001" in caplog.text
    save(saved, run.state)
    run.state.step.assign(3)
    assert path.read_bytes() == content
    assert Checkpointer(str(saved), other.trackables(), Retention(3)).restore() == 4


def test_two_hundred_flipped_bytes_are_all_seen(saved, other):
    """Any byte of any file of a checkpoint: it is never taken for whole."""
    files = sorted((saved / "checkpoints").iterdir())
    contents = [path.read_bytes() for path in files]
    rng = np.random.default_rng(0)
    for turn in range(200):
        path, content = files[turn % len(files)], contents[turn % len(files)]
        place, bit = rng.integers(len(content)), rng.integers(8)
        flipped = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        path.write_bytes(flipped)
        with pytest.raises(UserError):
            Checkpointer(str(saved), other.trackables(), Retention(3)).restore()
        path.write_bytes(content)
    assert Checkpointer(str(saved), other.trackables(), Retention(3)).restore() == 3


def test_a_copied_workdir_is_its_own(saved, other, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(saved / "checkpoints", moved / "checkpoints")
    shutil.rmtree(saved / "checkpoints")
    assert Checkpointer(str(moved), other.trackables(), Retention(3)).restore() == 3
