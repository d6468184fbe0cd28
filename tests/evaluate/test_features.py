"""The features of real images are cached until the images or the extractor change."""

import dataclasses

import numpy as np
import pytest

from t2i_tpu.data.manifest import read_manifest
from t2i_tpu.evaluate import features

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 3)).astype(np.uint8)


@dataclasses.dataclass
class MeanColors:
    """An extractor whose features are scaled mean colors. It counts its images."""

    scale: float = 1.0
    extractor_id = "colors"
    weights_sha256 = "0" * 64
    resize = "none"
    dim = 3
    count = 0

    def extract(self, images):
        self.count += len(images)
        return (self.scale * images.mean(axis=(1, 2))).astype(np.float32)


@pytest.fixture
def load(squares, tmp_path, monkeypatch):
    """`load(extractor)` returns features, from a cache that is empty at first."""
    monkeypatch.setattr(features, "get_cache_folder", lambda: str(tmp_path))
    manifest = read_manifest(str(squares))
    return lambda extractor: features.load_real_features(extractor, IMAGES, manifest, "train")


def test_features_are_extracted_once(load):
    extractor = MeanColors()
    first = load(extractor)
    np.testing.assert_array_equal(first, MeanColors().extract(IMAGES))
    extractor.count = 0
    np.testing.assert_array_equal(load(extractor), first)
    assert extractor.count == 1


def test_another_computation_with_the_same_weights_is_not_read_from_the_cache(load):
    first = load(MeanColors())
    np.testing.assert_allclose(load(MeanColors(scale=2.0)), 2 * first)
