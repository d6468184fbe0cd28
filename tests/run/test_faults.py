"""A disk that fills up, a workdir that cannot be written, a clock that is wrong: what a run keeps."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.checkpoint_store import Retention
from tests import tiny
from tests.launch.launcher import ROOT

# A run whose files may grow no larger than a limit, as on a disk without room. Unlike a file system
# that is full it needs no root to make; SIGXFSZ is ignored, so that a write fails as it would there.
LIMITED = """
import resource, signal, runpy, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


CHANGES = dict(train__total_steps=15, train__checkpoint_every=5)


@pytest.fixture
def saved(squares, tmp_path):
    """A workdir with a checkpoint of step 5, and the flags of a run of 15 steps there."""
    run = tiny.Run(tiny.config(squares, **CHANGES))
    run.steps(5)
    checkpointer = Checkpointer(str(tmp_path / "run"), run.state.trackables(), Retention(3))
    checkpointer.save()
    checkpointer.finish()
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    return tmp_path / "run", [*flags, *tiny.flags(squares, **CHANGES)], run


def names(workdir):
    return {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}


def test_a_disk_that_fills_up(saved, launch):
    """No checkpoint of 2.2 MB fits. What was there stays, the end says what is wrong, and with room
    again the run goes on as if nothing had been."""
    workdir, flags, run = saved
    command = [sys.executable, "-c", LIMITED, "1000000", str(ROOT / "launch" / "train.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    full = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert full.returncode == 1 and "Traceback" not in full.stderr, full.stderr
    failed = [line for line in full.stderr.splitlines() if "could not be written" in line]
    assert len(failed) == 3, full.stderr  # of step 10, of step 15, and the error in the end
    assert failed[-1].startswith("train.py: error: checkpoint ") and "step-15" in failed[-1]
    assert names(workdir) == {"step-5"}  # nor does what was not written take up room

    again = launch("train.py", flags).wait()
    assert again.code == 0 and "resuming at step 5 of 15" in again.stderr, again.stderr
    run.steps(10)
    found = tiny.checkpoint_values(workdir)
    for name, value in run.values().items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


def trained_read_only(workdir, flags):
    """The completed process of the run, where its workdir's file system is read-only."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here: a file system cannot be made read-only")
    mount = "mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec {1} launch/train.py {2}"
    line = mount.format(shlex.quote(str(workdir)), sys.executable, shlex.join(flags))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*unshare, "sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_workdir_that_cannot_be_written(saved):
    """Told before the first step."""
    workdir, flags, _ = saved
    result = trained_read_only(workdir, flags)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"train.py: error: {workdir} cannot be written: ")
    assert "Read-only file system" in error and "Traceback" not in result.stderr
    assert names(workdir) == {"step-5"} and [path.name for path in workdir.iterdir()] == [
        "checkpoints"
    ]


def test_a_finished_run_need_not_be_written(saved, launch):
    workdir, flags, _ = saved
    done = launch("train.py", flags).wait()
    assert done.code == 0, done.stderr
    again = trained_read_only(workdir, flags)
    assert again.returncode == 0, again.stderr
    assert f"finished: {workdir} holds all 15 steps" in again.stderr.splitlines()[-1]


def test_a_clock_that_was_set_back(saved, launch):
    """What is older than the epoch or of the far future counts by its step alone."""
    workdir, flags, run = saved
    run.steps(3)
    checkpointer = Checkpointer(str(workdir), run.state.trackables(), Retention(3))
    checkpointer.save()
    checkpointer.finish()
    for step, when in ((5, 4_000_000_000), (8, 1)):
        for path in (workdir / "checkpoints").glob(f"step-{step}.*"):
            os.utime(path, (when, when))
    result = launch("train.py", flags).wait()
    assert result.code == 0 and "resuming at step 8 of 15" in result.stderr, result.stderr
    assert names(workdir) == {"step-8", "step-10", "step-15"}
