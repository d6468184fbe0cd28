"""Saving and restoring checkpoints: a checkpoint matches exactly, or it is rejected."""

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
    """A run of three steps."""
    run = tiny.Run(tiny.make_config(squares))
    run.steps(3)
    return run


@pytest.fixture
def workdir(run, tmp_path):
    """A workdir with a single checkpoint, which is that of step 3."""
    save(tmp_path, run.state)
    return tmp_path


@pytest.fixture(scope="module")
def other(squares):
    """A state with the same shapes and other values."""
    return tiny.Run(tiny.make_config(squares, seed=1)).state


def make_checkpointer(workdir, state):
    return Checkpointer(str(workdir), state.trackables(), Retention(3))


def save(workdir, state):
    checkpointer = make_checkpointer(workdir, state)
    checkpointer.save()
    checkpointer.finish()


def read_values(state):
    """Return the values of a state's variables by name."""
    values = {}
    for group, value in state.trackables().items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        values |= {f"{group}/{name}".rstrip("/"): item.numpy() for name, item in items}
    return values


def assert_equal_values(values, expected):
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


def assert_one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 600


def test_every_variable_is_restored(run, workdir, other):
    before, expected = read_values(other), run.values()
    assert any(np.any(before[name] != expected[name]) for name in expected)
    assert make_checkpointer(workdir, other).restore() == 3
    assert_equal_values(read_values(other), expected)
    assert tiny.read_checkpoint(workdir).keys() == expected.keys()


@pytest.mark.parametrize("name", ["lr[1e-4]", "a\\b", "a*?", "ü 'a' \"b\"", "-a", "{a,b}"])
def test_any_name_of_a_workdir_can_be_restored(run, other, tmp_path, name):
    """TensorFlow would take some of these names for patterns."""
    workdir = tmp_path / name
    save(workdir, run.state)
    other.step.assign(0)
    assert make_checkpointer(workdir, other).restore() == 3
    assert restore_weights(str(workdir), other.denoiser, "weights") == 3
    assert_equal_values(read_values(other), run.values())


def test_empty_workdir_is_trained_from_step_0_and_cannot_be_sampled(tmp_path, other):
    other.step.assign(0)
    assert make_checkpointer(tmp_path, other).restore() == 0
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_weights(str(tmp_path), other.denoiser, "weights")
    assert list(tmp_path.iterdir()) == []


def test_weights_and_averages_are_restored_separately(run, workdir, other):
    for name, model in (("weights", run.state.denoiser), ("average0", run.state.averages[0])):
        for variable in other.denoiser.variables:
            variable.assign(np.full(variable.shape, 7.0))
        assert restore_weights(str(workdir), other.denoiser, name) == 3
        for variable, expected in zip(other.denoiser.variables, model.variables, strict=True):
            np.testing.assert_array_equal(variable.numpy(), expected.numpy())
    with pytest.raises(UserError):
        restore_weights(str(workdir), other.denoiser, "average1")


def test_checkpoint_of_another_width_is_rejected(workdir, squares):
    wider = tiny.Run(tiny.make_config(squares, model__widths=(24,))).state
    with pytest.raises(UserError, match="step-3 does not match") as error:
        make_checkpointer(workdir, wider).restore()
    assert_one_line(error)
    with pytest.raises(UserError, match="step-3 does not match") as error:
        restore_weights(str(workdir), wider.denoiser, "weights")
    assert_one_line(error)


@pytest.mark.parametrize("name", ["step", "loss_scale", "first_moments", "average0"])
def test_checkpoint_with_missing_or_extra_variables_is_rejected(tmp_path, run, other, name):
    """Another version of this package may have written it."""
    missing, extra = run.state.trackables(), run.state.trackables()
    if isinstance(missing[name], dict):
        missing[name] = dict(list(missing[name].items())[:-1])
        extra[name] = extra[name] | {"new": tf.Variable(1.0)}
    else:
        del missing[name]
        extra["new"] = tf.Variable(1.0)
    for folder, variables in (("missing", missing), ("extra", extra)):
        workdir = str(tmp_path / folder)
        tf.train.Checkpoint(**variables).write(checkpoint_store.get_prefix(workdir, 3))
        checkpoint_store.commit(workdir, 3, {})
        with pytest.raises(UserError, match="step-3 does not match") as error:
            make_checkpointer(workdir, other).restore()
        assert_one_line(error)


def test_save_writes_the_state_at_the_time_of_the_call(tmp_path, squares):
    """The device continues while a thread writes."""
    run = tiny.Run(tiny.make_config(squares, train__total_steps=100))
    run.steps(2)
    expected = run.values()
    checkpointer = make_checkpointer(tmp_path, run.state)
    checkpointer.save()
    run.steps(3)
    checkpointer.save()
    run.steps(1)
    checkpointer.finish()
    assert checkpoint_store.list_steps(str(tmp_path)) == [5, 2]
    checkpoint_store.remove(str(tmp_path), 5)
    assert_equal_values(tiny.read_checkpoint(tmp_path), expected)


def test_non_finite_weights_are_never_written(tmp_path, other):
    other.step.assign(7)
    save(tmp_path, other)
    bias = other.weights[1]
    good = bias.numpy()
    other.step.assign(8)
    for value in (np.inf, np.nan):
        bias.assign(np.concatenate([good.ravel()[:-1], [value]]).reshape(good.shape))
        with pytest.raises(UserError, match="step-8 could not be written: weights/.* not finite"):
            save(tmp_path, other)
    bias.assign(good)
    assert checkpoint_store.list_steps(str(tmp_path)) == [7]
    save(tmp_path, other)
    assert checkpoint_store.list_steps(str(tmp_path)) == [8, 7]


def test_an_unexpected_error_of_the_writer_is_not_success(tmp_path, other):
    def lose_the_workdir():
        raise RuntimeError("the workdir is gone")

    trackables = other.trackables()
    checkpointer = Checkpointer(str(tmp_path), trackables, Retention(3), lose_the_workdir)
    checkpointer.save()
    with pytest.raises(UserError, match="could not be written: RuntimeError: the workdir is gone"):
        checkpointer.finish()
    assert checkpoint_store.list_steps(str(tmp_path)) == []


def test_damaged_checkpoint_is_skipped_and_can_be_written_again(run, workdir, other, caplog):
    run.state.step.assign(4)
    save(workdir, run.state)
    path = workdir / "checkpoints" / "step-4.data-00000-of-00001"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert make_checkpointer(workdir, other).restore() == 3
    assert restore_weights(str(workdir), other.denoiser, "average0") == 3
    assert "skipping the checkpoint of step 4: step-4.data-00000-of-00001" in caplog.text
    save(workdir, run.state)
    run.state.step.assign(3)
    assert path.read_bytes() == content
    assert make_checkpointer(workdir, other).restore() == 4


def test_every_flipped_bit_is_detected(workdir, other):
    """Flip 200 random bits, spread over all files of a checkpoint."""
    files = sorted((workdir / "checkpoints").iterdir())
    contents = [path.read_bytes() for path in files]
    rng = np.random.default_rng(0)
    for turn in range(200):
        path, content = files[turn % len(files)], contents[turn % len(files)]
        place, bit = rng.integers(len(content)), rng.integers(8)
        flipped = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        path.write_bytes(flipped)
        with pytest.raises(UserError):
            make_checkpointer(workdir, other).restore()
        path.write_bytes(content)
    assert make_checkpointer(workdir, other).restore() == 3


def test_workdir_can_be_moved(workdir, other, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(workdir / "checkpoints", moved / "checkpoints")
    shutil.rmtree(workdir / "checkpoints")
    assert make_checkpointer(moved, other).restore() == 3
