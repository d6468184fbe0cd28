"""Small trained models for the tests of the Python interface."""

import pytest

import t2i_tpu
from tests import tiny

STEPS = 3  # of the sampler


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory, squares):
    """`workdirs(conditioning)` returns the workdir of a small model, trained by `t2i_tpu.train`."""
    made = {}

    def train_once(kind):
        if kind not in made:
            config = tiny.make_config(
                squares,
                model__conditioning=kind,
                train__total_steps=8,
                train__checkpoint_every=4,
                train__learning_rate=1e-2,
                train__ema_stds=(0.1, 0.05),
                sample__steps=STEPS,
            )
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            assert t2i_tpu.train(config, made[kind], strategy="cpu") == 0
        return made[kind]

    return train_once


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
