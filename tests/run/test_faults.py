"""A run copes with a full disk, a read-only workdir and a wrong clock."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from t2i_tpu.run import workdir as workdir_lib
from tests import tiny
from tests.launch.launcher import ROOT

# Runs a script whose files cannot grow beyond a limit, as on a full disk. Unlike a full file system,
# this does not require root. SIGXFSZ is ignored, so a write fails as on a full disk.
LIMITED_PROGRAM = """
import resource, signal, runpy, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LIMIT_BYTES = 1_000_000  # a checkpoint has 2.2 MB

CHANGES = dict(train__total_steps=15, train__checkpoint_every=5)


@pytest.fixture
def saved(squares, tmp_path):
    """A workdir with a checkpoint of step 5, the flags of a run of 15 steps there, and the run."""
    run, workdir = tiny.Run(tiny.make_config(squares, **CHANGES)), tmp_path / "run"
    run.steps(5)
    dataset = run.dataset
    workdir_lib.write(str(workdir), run.config, dataset.manifest, dataset.folder)
    run.save(workdir)
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    flags = [f"--config={config}", f"--workdir={workdir}", *tiny.make_flags(squares, **CHANGES)]
    return workdir, flags, run


def list_checkpoints(workdir):
    return {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}


def test_run_survives_a_full_disk(saved, launch):
    """The old checkpoint stays and the run ends with an error. With more space, it is resumed."""
    workdir, flags, run = saved
    script = str(ROOT / "launch" / "train.py")
    command = [sys.executable, "-c", LIMITED_PROGRAM, str(LIMIT_BYTES), script, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    failures = [line for line in result.stderr.splitlines() if "could not be written" in line]
    assert len(failures) == 3, result.stderr  # warnings for steps 10 and 15, and the error
    assert failures[-1].startswith("train.py: error: checkpoint ") and "step-15" in failures[-1]
    assert list_checkpoints(workdir) == {"step-5"}  # unfinished files are removed

    resumed = launch("train.py", flags).wait()
    assert resumed.code == 0 and "resuming at step 5 of 15" in resumed.stderr, resumed.stderr
    run.steps(10)
    values = tiny.read_checkpoint(workdir)
    for name, value in run.values().items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=1e-5, err_msg=name)


def train_read_only(workdir, flags):
    """Run train.py while the workdir's file system is read-only."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here: a file system cannot be made read-only")
    mount = "mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec {1} launch/train.py {2}"
    line = mount.format(shlex.quote(str(workdir)), sys.executable, shlex.join(flags))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*unshare, "sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_read_only_workdir_is_reported_before_the_first_step(saved):
    workdir, flags, _ = saved
    names = sorted(path.name for path in workdir.iterdir())
    result = train_read_only(workdir, flags)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"train.py: error: {workdir} cannot be written: ")
    assert "Read-only file system" in error and "Traceback" not in result.stderr
    assert list_checkpoints(workdir) == {"step-5"}
    assert sorted(path.name for path in workdir.iterdir()) == names


def test_finished_run_may_be_read_only(saved, launch):
    workdir, flags, _ = saved
    finished = launch("train.py", flags).wait()
    assert finished.code == 0, finished.stderr
    again = train_read_only(workdir, flags)
    assert again.returncode == 0, again.stderr
    assert f"finished: {workdir} holds all 15 steps" in again.stderr.splitlines()[-1]


def test_wrong_clock_does_not_affect_resuming(saved, launch):
    """The newest checkpoint seems to date from 1970, and an older one from 2096."""
    workdir, flags, run = saved
    run.steps(3)
    run.save(workdir)
    for step, seconds in ((5, 4_000_000_000), (8, 1)):
        for path in (workdir / "checkpoints").glob(f"step-{step}.*"):
            os.utime(path, (seconds, seconds))
    result = launch("train.py", flags).wait()
    assert result.code == 0 and "resuming at step 8 of 15" in result.stderr, result.stderr
    assert list_checkpoints(workdir) == {"step-8", "step-10", "step-15"}
