"""Small trained models for the tests of the Python interface."""

import pytest

import t2i_tpu
from tests import tiny

STEPS = 3  # of the sampler


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory, squares):
    """`workdirs(conditioning)` returns the workdir of a small model with random weights."""
    made = {}

    def write_once(kind):
        if kind not in made:
            config = tiny.make_config(
                squares,
                model__conditioning=kind,
                train__ema_stds=(0.1, 0.05),
                sample__steps=STEPS,
            )
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            tiny.write_run(made[kind], config)
        return made[kind]

    return write_once


@pytest.fixture(scope="session")
def models(workdirs):
    """`models(conditioning)` returns a loaded model."""
    loaded = {}

    def load_once(kind):
        if kind not in loaded:
            loaded[kind] = t2i_tpu.load(workdirs(kind), strategy="cpu")
        return loaded[kind]

    return load_once


@pytest.fixture
def model(models):
    """The model that takes embeddings."""
    return models("embedding")
