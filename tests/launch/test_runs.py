"""launch/runs.py as it is typed: what it lists, compares and removes."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory, squares, config_file, run):
    """A workdir with checkpoints of steps 2, 4, ..., 10 and previews of steps 5 and 10."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    flags = tiny.flags(
        squares,
        train__total_steps=10,
        train__log_every=2,
        train__checkpoint_every=2,
        train__preview_every=5,
        train__keep_checkpoints=9,
    )
    result = run("train.py", [f"--config={config_file}", f"--workdir={workdir}", *flags])
    assert result.code == 0, result.stderr
    losses = dict(re.findall(r"step (\d+)/10: loss ([\d.]+)", result.stderr))
    return workdir, {int(step): float(loss) for step, loss in losses.items()}


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def rows(result):
    assert result.code == 0, result.stderr
    return [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]


def test_the_list(finished, workdir, run, listing):
    (workdir / "checkpoints" / "step-6.index").write_bytes(b"")
    before = listing(workdir)
    title, *found = rows(run("runs.py", [workdir]))
    assert title == ["step", "loss", "MB", "whole", "preview"]
    for (step, loss, size, whole, preview), expected in zip(
        found[:5], (2, 4, 6, 8, 10), strict=True
    ):
        assert int(step) == expected and float(loss) == finished[1][expected]
        content = sum(
            path.stat().st_size for path in workdir.glob(f"checkpoints/step-{step}.[id]*")
        )
        assert step == "6" or abs(float(size) - content / 1e6) < 0.06
        assert whole == ("no: step-6.index is not what was written" if step == "6" else "yes")
        assert preview == (f"{workdir}/previews/step_00000010.png" if step == "10" else "-")
    assert found[5:] == [["previews alone: 5"]]
    assert listing(workdir) == before


def test_two_previews_side_by_side(workdir, run, tmp_path):
    output = tmp_path / "both.png"
    result = run("runs.py", [workdir, "--compare=5,10", f"--output={output}"])
    assert result.code == 0 and result.stdout.strip() == str(output)
    both = np.asarray(Image.open(output))
    for step in (5, 10):
        one = np.asarray(Image.open(workdir / "previews" / f"step_{step:08d}.png").convert("RGB"))
        height, width, _ = one.shape
        corner = (22, 8) if step == 5 else (22, both.shape[1] - 8 - width)
        part = both[corner[0] : corner[0] + height, corner[1] : corner[1] + width]
        np.testing.assert_array_equal(part, one)
    for value, words in (("5", "takes two steps"), ("5,7", "no preview of step '7'.*5, 10")):
        error = run("runs.py", [workdir, f"--compare={value}", f"--output={output}"]).error
        assert re.search(words, error)


def test_pruning(workdir, finished, run):
    best = min((loss, step) for step, loss in finished[1].items())[1]
    flags = ["--prune", "--keep_last=1", "--keep_every=4", "--keep_best=1"]
    result = run("runs.py", [workdir, *flags])
    kept = sorted({4, 8, 10, best})
    assert result.code == 0 and f"kept: {', '.join(map(str, kept))}\n" in result.stdout
    names = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
    assert names == {f"step-{step}" for step in kept}
    assert not (workdir / "lock.json").exists()


def test_pruning_leaves_the_newest_that_is_whole(workdir, run):
    for step in (8, 10):
        (workdir / "checkpoints" / f"step-{step}.index").write_bytes(b"")
    assert run("runs.py", [workdir, "--prune", "--keep_last=2"]).code == 0
    steps = [row[0] for row in rows(run("runs.py", [workdir]))[1:4]]
    assert steps == ["6", "8", "10"]


def test_no_run_there(tmp_path, run):
    assert "holds no run" in run("runs.py", [tmp_path]).error
    assert "WORKDIR is missing" in run("runs.py", []).error
