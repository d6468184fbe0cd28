"""What the tests of train/ share: one tiny data set."""

import itertools

import pytest

from tests.launch.launcher import Launched
from tests.train import tiny


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """The folder of a data set of 32 coloured squares with captions, embeddings, tokens, labels."""
    folder = tmp_path_factory.mktemp("squares")
    tiny.write(folder)
    return folder


@pytest.fixture
def launch(tmp_path):
    """`launch("train.py", flags, environment)` -> the `Launched` script; `inside=gcs.inside` is where
    gs:// works."""
    launched, numbers = [], itertools.count()

    def launch(script, arguments, environment=(), inside=None):
        folder = tmp_path / "launched" / f"{next(numbers)}"
        launched.append(Launched(script, arguments, folder, dict(environment), inside))
        return launched[-1]

    yield launch
    for one in launched:
        if one.process.is_alive():
            one.process.kill()
