"""Tests that the memory for distances does not grow with the number of images."""

import tracemalloc

import numpy as np
import pytest

from t2i_tpu.evaluate.distances.find import list_distances
from t2i_tpu.evaluate.memorisation import find_nearest, find_nearest_images

COUNT = 6000
LIMIT = 120  # MiB; the distances between 6,000 and 6,000 images would take 137 in float32


def measure_peak(compute, *arguments):
    """Return the peak of the memory that a call allocates, in MiB."""
    tracemalloc.start()
    try:
        compute(*arguments)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "distance", list_distances(), ids=lambda distance: distance.figures[0].name
)
def test_memory_of_distances_is_bounded(distance):
    real, drawn = np.random.default_rng(0).standard_normal((2, COUNT, 8), np.float32)
    assert measure_peak(distance.compute, real, drawn) < LIMIT


def test_memory_of_nearest_features_is_bounded():
    queries, references = np.random.default_rng(0).standard_normal((2, COUNT, 8), np.float32)
    assert measure_peak(find_nearest, queries, references) < LIMIT


def test_memory_of_nearest_images_is_bounded(tmp_path):
    """The references alone would take 141 MiB in float64."""
    path = tmp_path / "images.npy"
    shape = (1500, 64, 64, 3)
    references = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    references[::7] = np.arange(256, dtype=np.uint8)[:192].reshape(64, 3)
    assert measure_peak(find_nearest_images, references[:20], references) < LIMIT
