"""Tests that a run of 30 steps equals 15 steps, a stop and 15 more steps."""

import numpy as np

from tests import tiny


def test_resume_is_bit_exact(squares, tmp_path, launch):
    """The weights and previews are equal, even with other numbers of steps per device loop."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)

    def start(name, steps_per_loop):
        flags = tiny.make_flags(
            squares,
            train__total_steps=30,
            train__steps_per_loop=steps_per_loop,
            train__log_every=15,
            train__preview_every=15,
            data__horizontal_flip=True,
        )
        return launch("train.py", [f"--config={config}", f"--workdir={tmp_path / name}", *flags])

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
    second = start("stopped", 4).wait()
    assert second.code == 0 and "resuming at step 15 of 30" in second.stderr, second.stderr

    expected = tiny.read_checkpoint(tmp_path / "uninterrupted")
    values = tiny.read_checkpoint(tmp_path / "stopped")
    assert expected["step"] == values["step"] == 30
    assert expected.keys() == values.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    for step in (15, 30):
        name = f"previews/step_{step:08d}.png"
        picture = (tmp_path / "stopped" / name).read_bytes()
        assert picture == (tmp_path / "uninterrupted" / name).read_bytes()
