"""The features of real images are cached until the images or the extractor change."""

import dataclasses
import errno
import os

import numpy as np
import pytest

from t2i_tpu.evaluate import features
from t2i_tpu.evaluate.images import create_array

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
def load(tmp_path, monkeypatch):
    """`load(extractor)` returns features, from a cache that is empty at first."""
    monkeypatch.setattr(features, "get_cache_folder", lambda: str(tmp_path))
    return lambda extractor, images=IMAGES: features.load_real_features(extractor, images, "train")


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


def test_another_model_with_the_same_weights_is_not_read_from_the_cache(load):
    load(MeanColors())
    other = MeanColors()
    other.extractor_id = "other"
    load(other)
    assert other.count > len(IMAGES)


def test_other_images_of_the_same_shape_are_not_taken_from_the_cache(load):
    """Such as those of the same shards with another limit, or without damaged records."""
    load(MeanColors())
    changed = IMAGES.copy()
    changed[-1] += 1
    for images in (changed, np.roll(IMAGES, 1, axis=0)):
        np.testing.assert_array_equal(load(MeanColors(), images), MeanColors().extract(images))


def test_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    """Without the check, a write to the mapped file would kill the process."""

    def allocate(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    path = str(tmp_path / "images.npy")
    with pytest.raises(OSError, match="No space left on device") as caught:
        create_array(path, (3, 4), np.uint8)
    assert caught.value.filename == path
