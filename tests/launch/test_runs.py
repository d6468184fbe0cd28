"""launch/runs.py lists, compares and removes the right checkpoints."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory, squares, config_file, run):
    """The workdir and the losses by step of a finished run.

    There are checkpoints of steps 2, 4, ..., 10, and previews of steps 5 and 10.
    """
    workdir = tmp_path_factory.mktemp("runs") / "run"
    flags = tiny.make_flags(
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
    """A copy of the finished run's workdir. Its name has characters of patterns."""
    copy = tmp_path / "[a] b\\c*?"
    shutil.copytree(finished[0], copy)
    return copy


def damage(workdir, *steps):
    for step in steps:
        (workdir / "checkpoints" / f"step-{step}.index").write_bytes(b"")


def parse_table(result):
    assert result.code == 0, result.stderr
    return [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(("flags", "intact_word"), [([], "full size"), (["--verify"], "yes")])
def test_table_lists_every_checkpoint(finished, workdir, run, snapshot, flags, intact_word):
    damage(workdir, 6)
    before = snapshot(workdir)
    title, *rows = parse_table(run("runs.py", [workdir, *flags]))
    assert title == ["step", "loss", "MB", "intact", "preview"]
    for row, expected_step in zip(rows[:5], (2, 4, 6, 8, 10), strict=True):
        step, loss, megabytes, intact, preview = row
        assert int(step) == expected_step and float(loss) == finished[1][expected_step]
        if step == "6":
            assert intact == "no: step-6.index has changed since it was written"
        else:
            files = workdir.glob(f"checkpoints/step-{step}.[id]*")
            size = sum(path.stat().st_size for path in files)
            assert intact == intact_word and abs(float(megabytes) - size / 1e6) < 0.06
        assert preview == (f"{workdir}/previews/step_00000010.png" if step == "10" else "-")
    assert rows[5:] == [["previews without a checkpoint: 5"]]
    assert snapshot(workdir) == before


def test_only_verify_finds_changed_content(workdir, run):
    path = next(workdir.glob("checkpoints/step-8.data-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for flags, intact in (([], "full size"), (["--verify"], f"no: {path.name} has changed")):
        rows = parse_table(run("runs.py", [workdir, *flags]))
        (row,) = [row for row in rows if row[0] == "8"]
        assert row[3].startswith(intact)


def test_compare_puts_two_previews_side_by_side(workdir, run, tmp_path):
    output = tmp_path / "both.png"
    result = run("runs.py", [workdir, "--compare=5,10", f"--output={output}"])
    assert result.code == 0 and result.stdout.strip() == str(output)
    picture = np.asarray(Image.open(output))
    for step in (5, 10):
        path = workdir / "previews" / f"step_{step:08d}.png"
        preview = np.asarray(Image.open(path).convert("RGB"))
        height, width, _ = preview.shape
        top, left = 22, 8 if step == 5 else picture.shape[1] - 8 - width
        np.testing.assert_array_equal(picture[top : top + height, left : left + width], preview)


@pytest.mark.parametrize(
    ("value", "words"), [("5", "it must be two steps"), ("5,7", "no preview of step '7'.*5, 10")]
)
def test_compare_rejects_other_steps(workdir, run, tmp_path, value, words):
    output = tmp_path / "both.png"
    error = run("runs.py", [workdir, f"--compare={value}", f"--output={output}"]).error
    assert re.search(words, error) and not output.exists()


def test_prune_keeps_the_last_the_periodic_and_the_best(workdir, finished, run):
    best = min((loss, step) for step, loss in finished[1].items())[1]
    flags = ["--prune", "--keep_last=1", "--keep_every=4", "--keep_best=1"]
    result = run("runs.py", [workdir, *flags])
    kept = sorted({4, 8, 10, best})
    assert result.code == 0 and f"kept: {', '.join(map(str, kept))}\n" in result.stdout
    names = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
    assert names == {f"step-{step}" for step in kept}
    assert not (workdir / "lock.json").exists()


def test_prune_keeps_the_newest_intact_checkpoint(workdir, run):
    damage(workdir, 8, 10)
    assert run("runs.py", [workdir, "--prune", "--keep_last=2"]).code == 0
    steps = [row[0] for row in parse_table(run("runs.py", [workdir]))[1:4]]
    assert steps == ["6", "8", "10"]


def test_missing_run_is_reported(tmp_path, run):
    assert "holds no run" in run("runs.py", [tmp_path]).error


def test_missing_workdir_is_reported(run):
    assert "workdir" in run("runs.py", []).error.lower()
