"""Tests that every figure of a report is described, in two sentences."""

import pytest

from t2i_tpu.evaluate import agreement, memorisation, smoothness, two_sample
from t2i_tpu.evaluate.distances.find import list_distances

FIGURES = [
    *(figure for distance in list_distances() for figure in distance.figures),
    *(*agreement.FIGURES, *memorisation.FIGURES, *smoothness.FIGURES, *two_sample.FIGURES),
]


def test_figures_have_different_names_and_titles():
    for values in ([figure.name for figure in FIGURES], [figure.title for figure in FIGURES]):
        assert len(values) == len(set(values))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_each_figure_is_described(figure):
    assert figure.better in ("higher", "lower", "")
    assert figure.title and figure.meaning.count(". ") == 1 and figure.meaning.endswith(".")
