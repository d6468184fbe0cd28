"""launch/train.py: the files and log lines of a run, and that a finished run does nothing more."""

import os
import re
import subprocess
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

from tests import tiny
from tests.launch.launcher import ROOT


def read_scalars(folder):
    """Return the values of each TensorBoard scalar by step, as {name: {step: value}}."""
    scalars = {}
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    scalars.setdefault(value.tag, {})[event.step] = number
    return scalars


def test_run_writes_its_files_and_is_finished(tmp_path, squares, config_file, run, snapshot):
    workdir = tmp_path / "new" / "run"
    flags = [f"--config={config_file}", f"--workdir={workdir}"]
    flags += tiny.make_flags(
        squares,
        train__total_steps=7,
        train__log_every=2,
        train__preview_every=3,
        train__checkpoint_every=2,
        train__keep_checkpoints=2,
    )
    # Start this one afresh. The scripts of other tests are forked from a process with TensorFlow.
    first = subprocess.run(
        [sys.executable, "launch/train.py", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert first.returncode == 0, first.stderr
    assert "starting at step 0 of 7: 32 examples" in first.stderr
    assert re.findall(r"step (\d)/7: loss \d", first.stderr) == ["2", "4", "6", "7"]

    # Check the files.
    names = {path.name for path in workdir.iterdir()}
    assert names == {"config.json", "manifest.json", "checkpoints", "previews", "logs"}
    assert sorted(path.name for path in (workdir / "previews").iterdir()) == [
        f"step_{step:08d}.png" for step in (3, 6, 7)
    ]
    picture = np.asarray(Image.open(workdir / "previews" / "step_00000007.png"))
    assert picture.ndim == 3 and picture.std() > 0
    indexes = {path.name for path in (workdir / "checkpoints").glob("*.index")}
    assert indexes == {"step-6.index", "step-7.index"}

    # Check the scalars.
    scalars = read_scalars(workdir / "logs")
    for name in ("loss", "gradient_norm", "learning_rate", "images_per_second", "input_wait_share"):
        assert sorted(scalars[name]) == [2, 4, 6, 7], name
    assert all(np.isfinite(value) for value in scalars["loss"].values())
    bands = [name for name in scalars if name.startswith("loss_by_noise_level/")]
    assert 2 <= len(bands) <= 4
    assert min(scalars["images_per_second"][step] for step in (4, 6, 7)) > 0

    # Run the same command again.
    before = snapshot(workdir)
    again = run("train.py", flags)
    assert again.code == 0 and "finished" in again.stderr
    assert snapshot(workdir) == before
