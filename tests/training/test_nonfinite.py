"""Tests non-finite gradients: the first non-finite value is named, and a run can roll back."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.step.objective import corrupt_batch
from t2i_tpu.step.state import read_scalar
from t2i_tpu.training.finish import check_final_loss
from t2i_tpu.training.nonfinite import find_first_nonfinite
from tests import tiny


@pytest.fixture(scope="module")
def run(squares):
    return tiny.Run(tiny.make_config(squares))


class ChangedDataset:
    """A data set whose batches a TensorFlow function changes."""

    def __init__(self, dataset, change):
        self.dataset, self.change = dataset, change

    def batches(self, *arguments):
        return self.dataset.batches(*arguments).map(self.change)


@pytest.fixture
def find(run):
    """`find(change)` names the first non-finite value in step 0 after `change` has changed its batch."""

    def find_in_step_0(change=lambda batch: batch):
        return find_first_nonfinite(run.trainer, ChangedDataset(run.dataset, change), 0)

    return find_in_step_0


def test_finite_values_are_reported_as_such(find):
    assert find().startswith("recomputing the step gives finite values")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Finite weights overflow in early and late layers, inside and outside of blocks.
        ("unet/stem/kernel", 3e38, "the output of denoiser/unet/stem is the first"),
        (
            "unet/middle/residual/conv1/kernel",
            3e38,
            "the output of denoiser/unet/middle/residual/conv1 is the first",
        ),
        ("conditioner/project/kernel", 3e38, "the output of denoiser/conditioner/project is "),
        ("unet/head/kernel", np.nan, "weight denoiser/unet/head/kernel is the first"),
    ],
)
def test_the_first_layer_is_named(run, find, path, value, message):
    weight = run.state.weights[f"denoiser/{path}"]
    kept = weight.numpy()
    weight.assign(np.full(kept.shape, value))
    try:
        assert find().startswith(message)
    finally:
        weight.assign(kept)
    # The layers are no longer recorded, so a second search works too.
    assert find().startswith("recomputing the step gives finite values")


def test_a_gradient_is_named_if_the_outputs_are_finite(run, find):
    scale = read_scalar(run.state.loss_scale)
    run.state.loss_scale.assign(np.inf)
    try:
        assert find().startswith("the gradient at the output of denoiser is the first")
    finally:
        run.state.loss_scale.assign(scale)


def test_the_bands_are_those_of_the_bad_examples(run, find):
    """If one example's condition is NaN, only the band of its noise level is named."""
    (batch,) = run.dataset.batches(run.config.seed, 8, 8, 0).take(1)
    path = run.state.denoiser.diffusion_path
    examples = corrupt_batch(run.config, path, batch, tf.constant(0, tf.int64))
    seen = set()
    for row, level in enumerate(examples["noise_level"].numpy()):
        if not examples["condition"]["embedding"].numpy()[row].any():
            continue  # its condition was dropped

        def change(batch, row=row):
            embedding = batch["condition"]["embedding"]
            embedding = tf.tensor_scatter_nd_update(embedding, [[row, 3]], [np.nan])
            return batch | {"condition": {"embedding": embedding}}

        low = np.floor(level * 4) / 4
        band = f"{low:.2f} to {low + 0.25:.2f}"
        expected = f"the data's embedding is the first non-finite value, at noise levels {band}"
        assert find(change) == expected
        seen.add(low)
    assert len(seen) > 1


def test_skipped_steps_in_a_row_are_counted(squares):
    run = tiny.Run(tiny.make_config(squares))
    weight = run.state.denoiser.trainable_variables[0]
    kept = weight.numpy()
    weight.assign(np.full(kept.shape, np.nan))
    run.steps(3)
    assert read_scalar(run.state.skipped_in_a_row) == 3
    weight.assign(kept)
    run.steps(1)
    assert read_scalar(run.state.skipped_in_a_row) == 0


def test_a_rollback_lowers_a_learning_rate_that_is_too_high(squares, tmp_path, launch):
    """The learning rate grows until the squares of the weights overflow float32.

    The run stops without saving anything that is not finite. With the flag, it rolls back until the
    learning rate is low enough.
    """
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    flags += tiny.make_flags(
        squares,
        train__total_steps=40,
        train__warmup_steps=60,
        train__learning_rate=300.0,
        train__decay="constant",
        train__clip_norm=0.0,
        train__steps_per_loop=2,
        train__checkpoint_every=2,
        train__keep_checkpoints=8,
        train__log_every=2,
        train__max_skipped=5,
    )
    stopped = launch("train.py", flags).wait()
    assert stopped.code == 1 and "Traceback" not in stopped.stderr, stopped.stderr
    error = stopped.stderr.splitlines()[-1]
    expected = (
        r"train.py: error: the gradients were not finite in [56] consecutive steps up to \d+: "
        r"(the output|the gradient|weight|the loss).* is the first non-finite value, "
        r"at noise levels 0\.\d\d to [01]\.\d\d; no checkpoint contains such values"
    )
    assert re.match(expected, error), error
    for step in checkpoint_store.list_steps(str(tmp_path / "run")):
        reader = tf.train.load_checkpoint(checkpoint_store.get_prefix(str(tmp_path / "run"), step))
        for name in reader.get_variable_to_shape_map():
            value = reader.get_tensor(name)
            assert isinstance(value, bytes) or np.isfinite(value).all(), name

    saved = launch("train.py", [*flags, "--on_nonfinite=rollback"]).wait()
    assert saved.code == 0, saved.stderr
    records = json.loads((tmp_path / "run" / "rollbacks.json").read_text())
    assert records and all(record["to"] < record["at"] for record in records)
    last = records[-1]["to"], 0.5 ** len(records)
    assert f"returning to step {last[0]} at {last[1]:g} times the learning rate" in saved.stderr
    found = tiny.read_checkpoint(tmp_path / "run")
    assert found["step"] == 40 and all(np.isfinite(value).all() for value in found.values())


def test_a_run_that_ends_with_a_nan_loss_fails(squares, tmp_path, launch):
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    flags += tiny.make_flags(squares, train__total_steps=4, train__learning_rate=1e30)
    # The second command finds the finished run.
    for _ in range(2):
        result = launch("train.py", flags).wait()
        assert result.code == 1 and "Traceback" not in result.stderr
        error = result.stderr.splitlines()[-1]
        assert error.startswith("train.py: error: ") and "its last loss is nan" in error
        assert "lower config.train.learning_rate" in error and "done:" not in result.stderr
    assert all(
        np.isfinite(value).all() for value in tiny.read_checkpoint(tmp_path / "run").values()
    )


def test_a_run_that_recovered_before_its_end_passes():
    check_final_loss({"loss": np.nan, "skipped_in_a_row": 0}, "run")
    with pytest.raises(UserError, match="its last loss is nan"):
        check_final_loss({"loss": np.nan, "skipped_in_a_row": 1}, "run")
