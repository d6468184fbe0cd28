"""Tests that the snippets in docs/sampling.md and in the README work as they are written."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import tensorflow as tf

import t2i_tpu
from tests import tiny
from tools.draw_sampling_docs import PAGE, ROOT, WORKDIR, list_pictures, read_snippets, run_snippets


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, squares):
    """The workdir of a small run whose checkpoints have the steps that the page names."""
    config = tiny.make_config(squares, train__ema_stds=(0.05,), sample__steps=2)
    folder = tmp_path_factory.mktemp("runs") / "small"
    tiny.write_run(folder, config, steps=(2500, 3000, 3300))
    return folder


@pytest.fixture
def folder(workdir, tmp_path, monkeypatch):
    """The current folder, which contains the run at the path that the pages use."""
    (tmp_path / WORKDIR).parent.mkdir()
    (tmp_path / WORKDIR).symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    # One replica is enough, and is traced faster than the four replicas of the other tests.
    devices = tf.config.list_logical_devices("CPU")[:1]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    return tmp_path


@pytest.mark.parametrize("page", [ROOT / "README.md", PAGE], ids=lambda page: page.name)
def test_python_snippets_write_the_files_that_they_name(folder, page):
    snippets = "".join(read_snippets(page))
    assert "t2i_tpu.load" in snippets
    run_snippets(page)
    names = re.findall(r'\.save\("([^"]+)"', snippets) + list_pictures(page)
    assert names
    for name in names:
        is_picture = "." in name
        assert (folder / name).is_file() if is_picture else any((folder / name).iterdir()), name
        if is_picture and name != "mask.png":
            assert t2i_tpu.read_records(name), name


@pytest.mark.parametrize("script", ["sample.py", "interpolate.py", "edit.py"])
def test_commands_have_the_flags_that_the_page_gives_them(script):
    text = PAGE.read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(rf"^python launch/{script} (.*)", text, re.MULTILINE)
    assert commands
    words = [word for command in commands for word in shlex.split(command, comments=True)]
    names = {word.removeprefix("--").split("=")[0] for word in words}
    completed = subprocess.run(
        [sys.executable, ROOT / "launch" / script, "--help"], capture_output=True, text=True
    )
    assert names <= set(re.findall(r"--(?:\[no\])?(\w+)", completed.stdout))


def test_pictures_are_small():
    for name in list_pictures():
        assert os.path.getsize(PAGE.parent / "sampling" / name) < 60_000, name
