"""Thirty steps are fifteen, a stop, and fifteen more: the same bits, data and pictures."""

import signal

import numpy as np

from t2i_tpu.train import versions
from tests.train import tiny


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
    first.wait_for_handler(signal.SIGTERM)
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


def test_killed_between_checkpoints_loses_only_the_steps_since(squares, tmp_path, launch):
    """SIGKILL leaves no half checkpoint: the next start goes on from the last whole one."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    flags += tiny.flags(squares, train__total_steps=10_000, train__checkpoint_every=5)
    running = launch("train.py", flags)
    running.wait_for(lambda: 10 in versions.steps(str(tmp_path / "run")))
    running.process.kill()
    assert running.wait().code == -signal.SIGKILL
    stopped = int(tiny.checkpoint_values(tmp_path / "run")["step"])
    assert stopped >= 10 and stopped % 5 == 0
    again = launch("train.py", flags)
    again.wait_for_handler(signal.SIGTERM)
    again.process.terminate()
    again = again.wait()
    assert again.code == 75 and f"resuming at step {stopped} of" in again.stderr
    assert f"stopped at step {stopped + 5} by SIGTERM" in again.stderr

    reference = tiny.Run(tiny.config(squares, train__total_steps=10_000))
    reference.steps(stopped + 5)
    found = tiny.checkpoint_values(tmp_path / "run")
    for name, value in reference.values().items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)
