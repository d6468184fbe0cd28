"""What the tests of launch/ share: scripts as processes, and tiny models that were trained."""

import hashlib
import itertools
import os

import pytest

from tests import tiny
from tests.launch.launcher import Launched


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """`start("train.py", flags, environment)` -> the `Launched` script; `inside=gcs.inside` is where
    gs:// works."""
    root, numbers = tmp_path_factory.mktemp("launched"), itertools.count()
    launched = []

    def start(script, arguments, environment=(), inside=None):
        folder = root / f"{next(numbers)}"
        launched.append(Launched(script, arguments, folder, dict(environment), inside))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.is_alive():
            one.process.kill()


@pytest.fixture(scope="session")
def run(start):
    """`run("train.py", flags)` -> its `Result`."""
    return lambda *arguments, **options: start(*arguments, **options).wait()


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """A --config file that changes nothing; `tiny.flags` make it small."""
    path = tmp_path_factory.mktemp("configs") / "plain.py"
    path.write_text(tiny.CONFIG_FILE)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, squares, config_file, run):
    """`trained("embedding")` -> the workdir of a model that was trained for 12 steps."""
    workdirs = {}

    def trained(conditioning):
        if conditioning not in workdirs:
            workdir = tmp_path_factory.mktemp("runs") / conditioning
            averages = "(0.1,)" if conditioning == "embedding" else "()"
            flags = tiny.flags(
                squares,
                model__conditioning=conditioning,
                train__total_steps=12,
                train__learning_rate=1e-2,
                train__decay="constant",
                train__ema_stds=averages,
            )
            result = run("train.py", [f"--config={config_file}", f"--workdir={workdir}", *flags])
            assert result.code == 0, result.stderr
            workdirs[conditioning] = workdir
        return workdirs[conditioning]

    return trained


@pytest.fixture
def listing():
    """`listing(folder)`: every path below it with its size, content and time; {} if it is absent."""

    def listing(folder):
        found = {}
        for path in sorted(folder.rglob("*")) if folder.exists() else ():
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(folder))] = content, os.stat(path).st_mtime_ns
        return found

    return listing
