"""Figures are shown with the digits that their spread allows."""

import math

import pytest

from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.report.figures import (
    format_figure,
    format_number,
    list_descriptions,
    make_figure_table,
)

DESCRIPTIONS = {
    "kid": Figure("kid", "KID", "lower", "What it is."),
    "count": Figure("count", "Count", "", "What a count is."),
}


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (0.021345, 0.00123, "0.0213 ± 0.0012"),
        (12.3456, 0.432, "12.35 ± 0.43"),
        (1234.5, 67.8, "1234 ± 68"),
        (1234.5, 678.9, "1234 ± 679"),
        (-0.0001, 0.0021, "-0.0001 ± 0.0021"),
        (6.4e-9, 9.1e-9, "6.4e-09 ± 9.1e-09"),
        (0.25, 0.0, "0.25 ± 0"),
        (0.123456, None, "0.1235"),
        (0.123456, math.nan, "0.1235"),
        (3e-9, None, "3e-09"),
        (None, None, "–"),
        (math.inf, 0.1, "–"),
    ],
)
def test_numbers_have_the_digits_that_the_spread_allows(value, spread, text):
    assert format_number(value, spread).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("entry", "text"),
    [({"value": 1.5}, "1.5"), (2, "2"), ({"value": None, "reason": "r"}, "–"), (None, "–")],
)
def test_figures_may_be_numbers_or_missing(entry, text):
    assert format_figure(entry) == text


def test_table_names_the_figures_and_the_reasons():
    columns = {
        "train": {"kid": {"value": 0.5}, "odd_name": {"value": 3}, "pairs": [["a", "b"]]},
        "held-out": {"kid": {"value": None, "reason": "too few images"}},
    }
    table = make_figure_table(columns, DESCRIPTIONS)
    assert "KID (lower is better)" in table and "odd name" in table and "pairs" not in table
    assert "No KID (held-out): too few images." in table
    assert "What it is." in table and "What a count is." not in table
    assert make_figure_table({"train": {}}, DESCRIPTIONS) == ""


def test_every_figure_of_the_package_is_described():
    descriptions = list_descriptions()
    assert {"kid", "kid_standard_error"} <= descriptions.keys()
    for figure in descriptions.values():
        assert figure.better in ("higher", "lower", "") and figure.meaning.endswith(".")
