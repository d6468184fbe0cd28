"""Fixtures: six hundred real images with captions, and a function that prepares a data set."""

import functools

import pytest

from t2i_tpu.data.locate import locate
from t2i_tpu.data.prepare import pool
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.reader import open_dataset
from tests.data.prepare.source_files import compute_digest


@pytest.fixture(scope="session")
def emoji():
    """A list of (key, image uint8 [64, 64, 3], caption) without equal images or equal captions."""
    examples = open_dataset(locate("embedded:emoji"), "embedding", 64).examples("train", 700)
    by_digest = {compute_digest(example["image"]): example for example in examples}
    triples = [(each["key"], each["image"], each["caption"]) for each in by_digest.values()]
    return triples[:600]


@pytest.fixture
def prepare_from(tmp_path, read_shards):
    """`prepare_from(source, ...)` prepares a data set in tmp_path/out/data, or in `output`.

    It returns the manifest and {split: its examples}. Other keyword arguments go to Settings.
    """

    def run_prepare(source, output=None, workers=1, filters=None, **settings):
        output = str(output or tmp_path / "out" / "data")
        settings = dict(encoder="none", heldout_share=0.0, num_streams=4) | settings
        settings = Settings(source=source, filters=filters or Filters(), **settings)
        process_units = functools.partial(pool.process_units, workers=workers)
        manifest = prepare(settings, output, process_units)
        return manifest, {split: read_shards(output, split) for split in manifest.splits}

    return run_prepare
