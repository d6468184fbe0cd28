"""Makes plots that can be read on a phone, with matplotlib, and turns them into HTML.

Plots are small, and a page shows as many side by side as there is room for. The colors are those of
Okabe and Ito (https://jfly.uni-koeln.de/color/), which color-blind people can distinguish.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from t2i_tpu import html_page

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "os^Dvx+"
_SIZE = (3.9, 2.9)  # inches; a browser shows 96 pixels per inch
_MAX_NAME = 22  # characters of a name next to the vertical axis
_MAX_LABEL = 45  # characters in a line of an axis' label
_NUM_BINS = 30
_MAX_TICKS = 7  # on the horizontal axis
_LARGE = 10_000  # an axis that reaches this number is labeled as in "10k"
_MAX_MARKED = 30  # curves with more points have no markers
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": True,
    # Without this, names in the file are random.
    "svg.hashsalt": "t2i_tpu",
}


@dataclass(frozen=True)
class Curve:
    """A line of a plot.

    Attributes:
      name: the name in the legend.
      x: positions on the horizontal axis.
      y: values; nan leaves a gap.
      spread: half the height of the band around each value, or None.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


def plot_curves(curves: Sequence[Curve], x_label: str, y_label: str, log_y: bool = False) -> Figure:
    """Return a plot of curves, each with a band that shows its spread.

    Args:
      curves: the curves, at least one.
      x_label: quantity and unit of the horizontal axis.
      y_label: quantity and unit of the vertical axis.
      log_y: whether the vertical axis is logarithmic. All values must then be positive.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _make_axes(x_label, y_label)
        for index, curve in enumerate(curves):
            x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
            color = COLORS[index % len(COLORS)]
            marker = _MARKERS[index % len(_MARKERS)] if len(x) <= _MAX_MARKED else ""
            dashes = _DASHES[index % len(_DASHES)]
            axes.plot(x, y, dashes, color=color, marker=marker, label=curve.name)
            if curve.spread is not None:
                spread = np.asarray(curve.spread, float)
                axes.fill_between(x, y - spread, y + spread, color=color, alpha=0.2, linewidth=0)
        axes.locator_params(axis="x", nbins=_MAX_TICKS)
        if axes.get_xlim()[1] >= _LARGE:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if log_y:
            axes.set_yscale("log")
        _add_legend(figure, axes)
    return figure


def plot_histograms(values: Mapping[str, Sequence[float]], x_label: str) -> Figure:
    """Return histograms of several sets of numbers with the same bins, as shares of each set.

    Args:
      values: the numbers of each set by its name in the legend; none is empty.
      x_label: quantity and unit of the numbers.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _make_axes(x_label, "share of images (%)")
        arrays = {name: np.asarray(numbers, float) for name, numbers in values.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), _NUM_BINS)
        for index, (name, numbers) in enumerate(arrays.items()):
            shares = 100 * np.histogram(numbers, edges)[0] / len(numbers)
            color, dashes = COLORS[index % len(COLORS)], _DASHES[index % len(_DASHES)]
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.2)
            axes.stairs(shares, edges, color=color, linestyle=dashes, linewidth=1.6, label=name)
        axes.set_ylim(bottom=0)
        _add_legend(figure, axes)
    return figure


def plot_points(
    names: Sequence[str], values: Sequence[float], spreads: Sequence[float], x_label: str
) -> Figure:
    """Return a plot that compares values, each a point with a bar from minus to plus its spread.

    Args:
      names: the name of each value, shown to the left of its row; long ones are cut.
      values: the values.
      spreads: the spread of each value; nan if it is unknown, which leaves out the bar.
      x_label: quantity and unit of the values.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _make_axes(x_label, "")
        axes.locator_params(axis="x", nbins=_MAX_TICKS)
        figure.set_figheight(0.9 + 0.28 * max(2, len(names)))
        for row, (value, spread) in enumerate(zip(values, spreads, strict=True)):
            color, marker = COLORS[row % len(COLORS)], _MARKERS[row % len(_MARKERS)]
            bar = spread if np.isfinite(spread) else None
            axes.errorbar(value, row, xerr=bar, fmt=marker, color=color, capsize=3, markersize=5)
        axes.set_yticks(range(len(names)), [_shorten(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
    return figure


def to_html(plot: Figure, description: str) -> str:
    """Return a plot as HTML, with a caption that describes it."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        plot.savefig(buffer, format="svg", metadata={"Date": None})
    return html_page.make_plot(buffer.getvalue(), description)


def to_row(plots: Sequence[str]) -> str:
    """Return plots from `to_html` next to each other, as many as there is room for."""
    return f'<div class="plots">{"".join(plots)}</div>'


def _make_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # Figures that are made without pyplot leave no state behind.
    figure = Figure(figsize=_SIZE)
    axes = figure.add_subplot()
    axes.set_xlabel(textwrap.fill(x_label, _MAX_LABEL))
    axes.set_ylabel(textwrap.fill(y_label, _MAX_LABEL))
    axes.set_axisbelow(True)
    return figure, axes


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend above the plot, if there are several curves."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        names = [_shorten(name, 2 * _MAX_NAME) for name in names]
        columns = 2 if max(map(len, names)) <= _MAX_NAME else 1
        figure.legend(handles, names, loc="outside upper center", ncols=columns)


def _shorten(name: str, limit: int = _MAX_NAME) -> str:
    """Cut the start of a long name, because the ends of paths differ. A "$" does not start a formula."""
    name = name if len(name) <= limit else "…" + name[1 - limit :]
    return name.replace("$", r"\$")
