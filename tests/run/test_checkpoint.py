"""Saving and restoring checkpoints: a checkpoint matches exactly, or it is rejected."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint import restore_weights
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
    run.save(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def other(squares):
    """A run whose variables have the same shapes and other values."""
    return tiny.Run(tiny.make_config(squares, seed=1))


def assert_equal_values(values, expected):
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


def assert_one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 600


def test_every_variable_is_restored(run, workdir, other):
    before, expected = other.values(), run.values()
    assert any(np.any(before[name] != expected[name]) for name in expected)
    assert other.make_checkpointer(workdir).restore() == 3
    assert_equal_values(other.values(), expected)
    assert tiny.read_checkpoint(workdir).keys() == expected.keys()


@pytest.mark.parametrize("name", ["lr[1e-4]", "a\\b", "a*?", "ü 'a' \"b\"", "-a", "{a,b}"])
def test_any_name_of_a_workdir_can_be_restored(run, other, tmp_path, name):
    """TensorFlow would take some of these names for patterns."""
    workdir = tmp_path / name
    run.save(workdir)
    other.state.step.assign(0)
    assert other.make_checkpointer(workdir).restore() == 3
    assert restore_weights(other.engine, str(workdir), other.state.weights, "weights") == 3
    assert_equal_values(other.values(), run.values())


def test_empty_workdir_is_trained_from_step_0_and_cannot_be_sampled(tmp_path, other):
    other.state.step.assign(0)
    assert other.make_checkpointer(tmp_path).restore() == 0
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_weights(other.engine, str(tmp_path), other.state.weights, "weights")
    assert list(tmp_path.iterdir()) == []


def test_weights_and_averages_are_restored_separately(run, workdir, other):
    weights = other.state.weights
    for name, saved in (("weights", run.state.weights), ("average0", run.state.averages[0])):
        for variable in weights.values():
            variable.assign(np.full(variable.shape, 7.0))
        assert restore_weights(other.engine, str(workdir), other.state.weights, name) == 3
        for path, expected in saved.items():
            np.testing.assert_array_equal(weights[path].numpy(), expected.numpy())
    with pytest.raises(UserError):
        restore_weights(other.engine, str(workdir), other.state.weights, "average1")


def test_checkpoint_of_another_width_is_rejected(workdir, squares):
    wider = tiny.Run(tiny.make_config(squares, model__widths=(24,)))
    with pytest.raises(UserError, match="step-3 does not match") as error:
        wider.make_checkpointer(workdir).restore()
    assert_one_line(error)
    with pytest.raises(UserError, match="step-3 does not match") as error:
        restore_weights(wider.engine, str(workdir), wider.state.weights, "weights")
    assert_one_line(error)


def get_trackables(state):
    """Return what TensorFlow saves in a checkpoint of a state."""
    return tf.nest.map_structure(lambda variable: variable.value, state.get_saved())


@pytest.mark.parametrize("name", ["step", "loss_scale", "first_moments", "average0"])
def test_checkpoint_with_missing_or_extra_variables_is_rejected(tmp_path, run, other, name):
    """Another version of this package may have written it."""
    missing, extra = get_trackables(run.state), get_trackables(run.state)
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
            other.make_checkpointer(workdir).restore()
        assert_one_line(error)


def test_save_writes_the_state_at_the_time_of_the_call(tmp_path, squares):
    """The device continues while a thread writes."""
    run = tiny.Run(tiny.make_config(squares, train__total_steps=100))
    run.steps(2)
    expected = run.values()
    checkpointer = run.make_checkpointer(tmp_path)
    checkpointer.save()
    run.steps(3)
    checkpointer.save()
    run.steps(1)
    checkpointer.finish()
    assert checkpoint_store.list_steps(str(tmp_path)) == [5, 2]
    checkpoint_store.remove(str(tmp_path), 5)
    assert_equal_values(tiny.read_checkpoint(tmp_path), expected)


def test_non_finite_weights_are_never_written(tmp_path, other):
    other.state.step.assign(7)
    other.save(tmp_path)
    bias = other.state.denoiser.trainable_variables[1]
    good = bias.numpy()
    other.state.step.assign(8)
    for value in (np.inf, np.nan):
        bias.assign(np.concatenate([good.ravel()[:-1], [value]]).reshape(good.shape))
        with pytest.raises(UserError, match="step-8 could not be written: weights/.* not finite"):
            other.save(tmp_path)
    bias.assign(good)
    assert checkpoint_store.list_steps(str(tmp_path)) == [7]
    other.save(tmp_path)
    assert checkpoint_store.list_steps(str(tmp_path)) == [8, 7]


def test_an_unexpected_error_of_the_writer_is_not_success(tmp_path, other):
    def lose_the_workdir():
        raise RuntimeError("the workdir is gone")

    checkpointer = other.make_checkpointer(tmp_path)
    checkpointer.check_owner = lose_the_workdir
    checkpointer.save()
    with pytest.raises(UserError, match="could not be written: RuntimeError: the workdir is gone"):
        checkpointer.finish()
    assert checkpoint_store.list_steps(str(tmp_path)) == []


def test_damaged_checkpoint_is_skipped_and_can_be_written_again(run, workdir, other, caplog):
    run.state.step.assign(4)
    run.save(workdir)
    path = workdir / "checkpoints" / "step-4.data-00000-of-00001"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert other.make_checkpointer(workdir).restore() == 3
    assert restore_weights(other.engine, str(workdir), other.state.weights, "average0") == 3
    assert "skipping the checkpoint of step 4: step-4.data-00000-of-00001" in caplog.text
    run.save(workdir)
    run.state.step.assign(3)
    assert path.read_bytes() == content
    assert other.make_checkpointer(workdir).restore() == 4


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
            other.make_checkpointer(workdir).restore()
        path.write_bytes(content)
    assert other.make_checkpointer(workdir).restore() == 3


def test_workdir_can_be_moved(workdir, other, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(workdir / "checkpoints", moved / "checkpoints")
    shutil.rmtree(workdir / "checkpoints")
    assert other.make_checkpointer(moved).restore() == 3
