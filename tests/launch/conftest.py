"""Fixtures for the tests of launch/: running scripts, and small trained models."""

import hashlib
import os

import pytest

from tests import tiny
from tests.launch.launcher import open_launcher
from tests.launch.tpu import Cloud


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """`start("train.py", arguments)` starts a script; see `open_launcher`."""
    with open_launcher(tmp_path_factory.mktemp("launched")) as launch_script:
        yield launch_script


@pytest.fixture(scope="session")
def run(start):
    """`run("train.py", arguments)` runs a script and returns its `Result`."""

    def run_script(*arguments, **options):
        return start(*arguments, **options).wait()

    return run_script


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """A --config file with the default config, for use with `tiny.make_flags`."""
    path = tmp_path_factory.mktemp("configs") / "plain.py"
    path.write_text(tiny.CONFIG_FILE)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, squares, config_file, run):
    """`trained("embedding")` returns the workdir of a model with that conditioning after 12 steps.

    The name of the workdir has characters that have a meaning in patterns.
    """
    workdirs = {}

    def train_once(conditioning):
        if conditioning not in workdirs:
            workdir = tmp_path_factory.mktemp("runs") / f"[{conditioning}] a\\b*?"
            flags = tiny.make_flags(
                squares,
                model__conditioning=conditioning,
                train__total_steps=12,
                train__learning_rate=1e-2,
                train__decay="constant",
                # Cover sampling with an average and with the weights themselves.
                train__ema_stds="(0.1,)" if conditioning == "embedding" else "()",
            )
            result = run("train.py", [f"--config={config_file}", f"--workdir={workdir}", *flags])
            assert result.code == 0, result.stderr
            workdirs[conditioning] = workdir
        return workdirs[conditioning]

    return train_once


@pytest.fixture
def snapshot():
    """`snapshot(folder)` returns the hash and time of every path in a folder; {} if it is absent."""

    def list_folder(folder):
        entries = {}
        for path in sorted(folder.rglob("*")) if folder.exists() else ():
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            entries[str(path.relative_to(folder))] = content, os.stat(path).st_mtime_ns
        return entries

    return list_folder


@pytest.fixture
def cloud(tmp_path):
    """A checkout whose launch/tpu_vm.sh calls a stand-in for gcloud."""
    cloud = Cloud(tmp_path)
    yield cloud
    cloud.clean_up()
