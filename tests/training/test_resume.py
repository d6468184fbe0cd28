"""Tests that a run of 30 steps equals 15 steps, a stop and 15 more steps."""

import numpy as np
import pytest

from tests import tiny
from tests.launch.test_train import read_scalars


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_resume_is_bit_exact(engine, squares, tmp_path, launch):
    """Weights, previews and evaluations are equal, even with other numbers of steps per device loop."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)

    def start(name, steps_per_loop):
        flags = tiny.make_flags(
            squares,
            train__total_steps=30,
            train__steps_per_loop=steps_per_loop,
            train__log_every=15,
            train__preview_every=15,
            train__evaluate_every=15,
            train__evaluate_images=20,
            data__horizontal_flip=True,
        )
        first = [f"--config={config}", f"--workdir={tmp_path / name}", f"--engine={engine}"]
        return launch("train.py", [*first, *flags])

    uninterrupted = start("uninterrupted", 6).wait()
    assert uninterrupted.code == 0, uninterrupted.stderr

    # Send the signal while the first 15 steps are traced, long before they are done.
    first = start("stopped", 15)
    first.wait_for_line("starting at")
    first.process.terminate()
    first = first.wait()
    assert first.code == 75, first.stderr  # EX_TEMPFAIL, which means "start me again"
    assert "stopped at step 15 by SIGTERM; run the same command to resume" in first.stderr
    assert tiny.read_checkpoint(tmp_path / "stopped")["step"] == 15
    # It does not wait for the evaluation of step 15, which may take minutes.
    assert not (tmp_path / "stopped" / "evaluations").exists()
    second = start("stopped", 4).wait()
    assert second.code == 0 and "resuming at step 15 of 30" in second.stderr, second.stderr

    expected = tiny.read_checkpoint(tmp_path / "uninterrupted")
    values = tiny.read_checkpoint(tmp_path / "stopped")
    assert expected["step"] == values["step"] == 30
    assert expected.keys() == values.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    for step in (15, 30):
        for name in (f"previews/step_{step:08d}.png", f"evaluations/step_{step:08d}.json"):
            content = (tmp_path / "stopped" / name).read_bytes()
            assert content == (tmp_path / "uninterrupted" / name).read_bytes()
    expected = read_scalars(tmp_path / "uninterrupted" / "logs")
    scalars = read_scalars(tmp_path / "stopped" / "logs")
    names = {name for name in expected if name.startswith("evaluation/")}
    assert len(names) == 5
    for name in names:
        assert scalars[name] == expected[name] and sorted(expected[name]) == [15, 30], name
