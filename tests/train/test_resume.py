"""Thirty steps are fifteen, a stop, and fifteen more: the same bits, data and pictures."""

import numpy as np

from tests import tiny


def test_stopped_and_resumed_is_undisturbed_bit_for_bit(squares, tmp_path, launch):
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)

    def started(name, steps_per_loop):
        """How often the host looks at a run is its own affair."""
        flags = tiny.flags(
            squares,
            train__total_steps=30,
            train__steps_per_loop=steps_per_loop,
            train__log_every=15,
            train__preview_every=15,
            data__horizontal_flip=True,
        )
        return launch("train.py", [f"--config={config}", f"--workdir={tmp_path / name}", *flags])

    undisturbed = started("undisturbed", 6).wait()
    assert undisturbed.code == 0, undisturbed.stderr

    # The signal comes while the first 15 steps are traced, long before they are done.
    first = started("stopped", 15)
    first.wait_for_line("starting at")
    first.process.terminate()
    first = first.wait()
    assert first.code == 75, first.stderr  # EX_TEMPFAIL: start it again
    assert "stopped at step 15 by SIGTERM; run the same command again" in first.stderr
    assert tiny.checkpoint_values(tmp_path / "stopped")["step"] == 15
    second = started("stopped", 4).wait()
    assert second.code == 0 and "resuming at step 15 of 30" in second.stderr, second.stderr

    expected = tiny.checkpoint_values(tmp_path / "undisturbed")
    found = tiny.checkpoint_values(tmp_path / "stopped")
    assert expected["step"] == found["step"] == 30
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for step in (15, 30):
        name = f"previews/step_{step:08d}.png"
        one, other = ((tmp_path / run / name).read_bytes() for run in ("undisturbed", "stopped"))
        assert one == other
