"""Plots show the numbers that they are given, and are the same each time."""

import math

import numpy as np
import pytest

from t2i_tpu.evaluate.report import plots
from t2i_tpu.evaluate.report.history import plot_history
from tests.evaluate.report import fake


def make_plots():
    curves = [
        plots.Curve("training images", [0.1, 0.5, 0.9], [3, 2, 1], [0.1, 0.2, 0.3]),
        plots.Curve("held-out images", [0.1, 0.5, 0.9], [3, math.nan, 2]),
    ]
    return [
        plots.plot_curves(curves, "noise level", "loss"),
        plots.plot_histograms({"drawn": [1, 2, 2], "real": [3, 4, 5]}, "distance"),
        plots.plot_points(["a", "b"], [1, 2], [0.5, math.nan], "KID"),
    ]


def test_plots_are_deterministic():
    first, second = ([plots.to_html(plot, "d") for plot in make_plots()] for _ in range(2))
    assert first == second


def test_curves_have_bands_of_their_spread():
    (axes,) = make_plots()[0].axes
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_ydata(), [3, 2, 1])
    np.testing.assert_array_equal(second.get_xdata(), [0.1, 0.5, 0.9])
    (band,) = axes.collections
    corners = {tuple(corner) for corner in np.round(band.get_paths()[0].vertices, 9)}
    assert {(0.1, 2.9), (0.1, 3.1), (0.9, 0.7), (0.9, 1.3)} <= corners
    assert axes.get_xlabel() == "noise level" and axes.get_ylabel() == "loss"


def test_histograms_are_shares_in_common_bins():
    rng = np.random.default_rng(0)
    sets = {"drawn": rng.normal(0, 1, 50), "real": rng.normal(2, 1, 500)}
    (axes,) = plots.plot_histograms(sets, "distance").axes
    filled, *_ = steps = [patch.get_data() for patch in axes.patches]
    for values, edges, _ in steps:
        assert sum(values) == pytest.approx(100)
        np.testing.assert_array_equal(edges, filled.edges)
    everything = np.concatenate(list(sets.values()))
    assert (filled.edges[0], filled.edges[-1]) == (everything.min(), everything.max())


def test_points_without_a_spread_have_no_bar():
    (axes,) = make_plots()[2].axes
    bars = [container.has_xerr for container in axes.containers]
    assert bars == [True, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_equal_values_can_be_plotted():
    plots.to_html(plots.plot_histograms({"drawn": [0.0, 0.0], "real": [0.0]}, "distance"), "d")
    plots.to_html(plots.plot_points(["a"], [0.0], [0.0], "KID"), "d")
    plots.to_html(plots.plot_curves([plots.Curve("", [1], [1])], "x", "y"), "d")


def test_names_are_not_formulas():
    """matplotlib rejects the formula between these dollars."""
    plots.to_html(plots.plot_points(["$_$"], [1.0], [0.0], "KID"), "d")
    curves = [plots.Curve(name, [1], [1]) for name in ("$_$", "b")]
    plots.to_html(plots.plot_curves(curves, "x", "y"), "d")


def test_history_needs_no_complete_entries():
    history = fake.make_report()["generalisation"]["history"]
    assert len(plot_history({"": history}, {})) == 4  # losses, gap, KID, accuracy
    history = [{"step": 1, "kid": 0.1}, {"step": 2, "train_loss": 0.3, "kid": None}]
    assert len(plot_history({"a": history, "b": []}, {})) == 2
    assert plot_history({"": []}, {}) == []
