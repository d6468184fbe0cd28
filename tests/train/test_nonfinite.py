"""Gradients that stay infinite or NaN: where it began is named, and a run can go back."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.train import nonfinite
from tests import tiny


@pytest.fixture(scope="module")
def run(squares):
    return tiny.Run(tiny.config(squares))


@pytest.fixture
def located(run):
    """`located(changed)`: what is said of step 0 of a batch that `changed` may change."""

    def located(changed=lambda batch: batch):
        batches = run.dataset.batches(run.config.seed, 8, 8, 0).take(1)
        return nonfinite.located(run.config, run.state, map(changed, batches), 0)

    return located


def test_nothing_to_find(located):
    assert located().startswith("computed again it is finite")


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        # Overflows of finite weights, in layers early and late, within blocks and not.
        ("unet/stem/kernel", 3e38, "the output of denoiser/unet/stem is the first"),
        (
            "unet/middle/residual/conv1/kernel",
            3e38,
            "the output of denoiser/unet/middle/residual/conv1 is the first",
        ),
        ("conditioner/project/kernel", 3e38, "the output of denoiser/conditioner/project is the f"),
        ("unet/head/kernel", np.nan, "weight denoiser/unet/head/kernel is the first"),
    ],
)
def test_the_first_layer_is_named(run, located, path, value, what):
    (index,) = (
        index
        for index, variable in enumerate(run.state.denoiser.trainable_variables)
        if variable.path.endswith(path)
    )
    weight = run.state.weights[index]
    kept = weight.numpy()
    weight.assign(np.full(kept.shape, value))
    try:
        assert located().startswith(what)
    finally:
        weight.assign(kept)
    assert located().startswith("computed again it is finite")  # and no layer is left watched


def test_a_gradient_is_named_where_the_outputs_are_finite(run, located):
    scale = run.state.loss_scale.numpy()
    run.state.loss_scale.assign(np.inf)
    try:
        assert located().startswith("the gradient at the output of denoiser is the first")
    finally:
        run.state.loss_scale.assign(scale)


def test_the_bands_are_those_of_the_examples_that_went_wrong(run, located):
    """One example's condition is NaN: its noise level's band alone, by the levels of the step."""
    from t2i_tpu.train.step import corrupted

    (batch,) = run.dataset.batches(run.config.seed, 8, 8, 0).take(1)
    path = run.state.denoiser.diffusion_path
    examples = corrupted(run.config, path, batch, tf.constant(0, tf.int64))
    seen = set()
    for row, level in enumerate(examples["noise_level"].numpy()):
        if not examples["condition"].numpy()[row].any():
            continue  # it lost its condition

        def changed(batch, row=row):
            condition = batch["condition"].numpy()
            condition[row, 3] = np.nan
            return batch | {"condition": tf.constant(condition)}

        low = np.floor(level * 4) / 4
        expected = (
            f"the data's condition is the first, at noise levels {low:.2f} to {low + 0.25:.2f}"
        )
        assert located(changed) == expected
        seen.add(low)
    assert len(seen) > 1


def test_skipped_steps_in_a_row_are_counted(squares):
    run = tiny.Run(tiny.config(squares))
    weight = run.state.weights[0]
    kept = weight.numpy()
    weight.assign(np.full(kept.shape, np.nan))
    run.steps(3)
    assert run.state.skipped_in_a_row.numpy() == 3
    weight.assign(kept)
    run.steps(1)
    assert run.state.skipped_in_a_row.numpy() == 0


def test_the_checkpoint_to_go_back_to(tmp_path):
    for step in (10, 20, 30, 40):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / f"step-{step}.index").touch()
        checkpoint_store.commit(str(tmp_path), step, {})
    rollbacks = nonfinite.Rollbacks(str(tmp_path))
    assert rollbacks.learning_rate_scale == 1
    expected = [(35, 30), (30, 20), (45, 40), (25, 10), (41, 0), (9, 0)]
    for count, (began, to) in enumerate(expected):
        assert rollbacks.target(str(tmp_path), began) == to
        if to:
            rollbacks.add(began + 3, to, write=True)
            rollbacks = nonfinite.Rollbacks(str(tmp_path))  # as a resumed run reads it
            assert rollbacks.learning_rate_scale == 0.5 ** (count + 1)


@pytest.mark.parametrize("text", ["", "[", "{}", "[3]", '[{"at": 3}]', '[{"at": 3, "to": "x"}]'])
def test_a_damaged_record_of_it(tmp_path, text):
    (tmp_path / "rollbacks.json").write_text(text)
    if text == "{}":
        assert nonfinite.Rollbacks(str(tmp_path)).records == []
        return
    with pytest.raises(UserError, match="rollbacks.json is damaged"):
        nonfinite.Rollbacks(str(tmp_path))


def test_a_run_that_overshoots(squares, tmp_path, launch):
    """A learning rate that grows until the weights are too large for float32 to square: the run
    stops, saves nothing that is not finite, and with the flag goes back until it is low enough."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    flags += tiny.flags(
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
    assert re.match(
        r"train.py: error: no finite gradients in [56] steps up to \d+: (the output|the gradient|weight"
        r"|the loss).* is the first, at noise levels 0\.\d\d to [01]\.\d\d; nothing that is not finite",
        error,
    ), error
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
    assert f"back to step {last[0]} at {last[1]:g} of the learning rate" in saved.stderr
    found = tiny.checkpoint_values(tmp_path / "run")
    assert found["step"] == 40 and all(np.isfinite(value).all() for value in found.values())
