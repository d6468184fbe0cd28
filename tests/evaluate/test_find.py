"""Tests that the distances of the folder are found and are complete."""

import subprocess
import sys

import numpy as np
import pytest

from t2i_tpu.evaluate.distances import find

DISTANCES = find.list_distances()


def test_kid_comes_first():
    assert DISTANCES[0].figures[0].name == "kid"


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda distance: distance.figures[0].name)
def test_each_distance_computes_its_figures_from_as_many_images_as_it_needs(distance):
    count = distance.count_needed(4)
    real, drawn = np.random.default_rng(0).standard_normal((2, count, 4)).astype(np.float32)
    values = distance.compute(real, drawn)
    assert list(values) == [figure.name for figure in distance.figures]
    for value in values.values():
        assert type(value) is float and np.isfinite(value)


def test_kid_needs_only_numpy():
    """Training computes it, and the base install has neither SciPy nor scikit-learn."""
    code = (
        "import sys, t2i_tpu.evaluate.distances.kid; "
        "assert not {'scipy', 'sklearn', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
