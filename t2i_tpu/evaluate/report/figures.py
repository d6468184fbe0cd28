"""Formats the figures of a report: their values and spreads, their titles and their meanings.

In a report, a figure is a dict of one of these forms, or a bare number:
  {"value": mean over the sets, "spread": standard deviation over the sets, "values": one per set}
  {"value": None, "reason": why there is no value}
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from t2i_tpu import html_page
from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.distances.find import list_distances

NO_VALUE = "–"
_DIGITS = 4
_MAX_DECIMALS = 7  # numbers that would need more are written as in 1.2e-09
_FIGURES = (
    Figure(
        "denoising_loss",
        "Denoising loss",
        "lower",
        "The mean squared error of the model's estimates of real images to which noise was added. It is "
        "high for kinds of images that the model has not learned.",
    ),
    Figure(
        "train_loss",
        "Denoising loss on training images",
        "lower",
        "The denoising loss on images that the model was trained on. If it falls while the loss on "
        "held-out images does not, the model is memorizing its training images.",
    ),
    Figure(
        "heldout_loss",
        "Denoising loss on held-out images",
        "lower",
        "The denoising loss on images that the model was not trained on. It measures how well the model "
        "has learned what images of this kind have in common.",
    ),
    Figure(
        "condition_accuracy",
        "Condition accuracy",
        "higher",
        "The share of drawn images that are recognized as what was asked for. For labels, a classifier "
        "must find the right one; for prompts, CLIP must prefer the right one to each of up to 99 others.",
    ),
)
_PLUS_MINUS = "\u00a0±\u00a0"  # between spaces that do not break a line


def format_number(value: float | None, spread: float | None = None) -> str:
    """Return a number, and its spread if it is known, with the digits that the spread allows.

    The spread has two significant digits. A number without a spread has four.
    """
    if value is None or not math.isfinite(value):
        return NO_VALUE
    if spread is None or not math.isfinite(spread):
        return f"{value:.{_DIGITS}g}"
    if spread == 0:
        return f"{value:.{_DIGITS}g}{_PLUS_MINUS}0"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    if decimals > _MAX_DECIMALS:
        return f"{value:.2g}{_PLUS_MINUS}{spread:.2g}"
    return f"{value:.{decimals}f}{_PLUS_MINUS}{spread:.{decimals}f}"


def is_figure(entry: Any) -> bool:
    """Return whether a value of a report is a figure."""
    if isinstance(entry, Mapping):
        return "value" in entry
    return isinstance(entry, int | float) and not isinstance(entry, bool)


def get_value(entry: Any) -> float | None:
    """Return the value of a figure, or None if it has no value."""
    return entry["value"] if isinstance(entry, Mapping) else entry


def get_spread(entry: Any) -> float:
    """Return the spread of a figure, or NaN if it is unknown."""
    spread = entry.get("spread") if isinstance(entry, Mapping) else None
    return math.nan if spread is None else spread


def format_figure(entry: Any) -> str:
    """Return a figure of a report as text, or a dash if there is none."""
    if not is_figure(entry):
        return NO_VALUE
    if isinstance(entry, Mapping):
        return format_number(entry["value"], entry.get("spread"))
    return format_number(entry)


def make_figure_table(
    columns: Mapping[str, Mapping[str, Any]], descriptions: Mapping[str, Figure]
) -> str:
    """Return a table of figures as HTML, with the reasons for missing values and the meanings below.

    Args:
      columns: the figures by name of each column, by the column's title. Entries that are not figures
        are ignored.
      descriptions: the descriptions of figures by name. A figure without one is shown with its name.
    """
    names = list_names(columns.values())
    if not names:
        return ""
    rows = []
    for name in names:
        cells = [format_figure(figures.get(name)) for figures in columns.values()]
        title, better = describe(name, descriptions)
        rows.append([f"{title} ({better} is better)" if better else title, *cells])
    parts = [html_page.make_table(rows, ["", *columns])]
    parts += [
        html_page.make_paragraph(line, "note") for line in _list_reasons(columns, descriptions)
    ]
    known = [descriptions[name] for name in names if name in descriptions]
    parts.append(html_page.make_definitions((figure.title, figure.meaning) for figure in known))
    return "".join(parts)


def list_names(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all figures in several groups of entries, in order of appearance."""
    names = {name: None for group in groups for name, entry in group.items() if is_figure(entry)}
    return list(names)


def describe(name: str, descriptions: Mapping[str, Figure]) -> tuple[str, str]:
    """Return a figure's title, and which direction is better in one word, or ""."""
    figure = descriptions.get(name)
    return (figure.title, figure.better) if figure else (name.replace("_", " "), "")


def _list_reasons(columns, descriptions) -> list[str]:
    """Return one line for each reason why values are missing."""
    titles: dict[str, list[str]] = {}
    for column, figures in columns.items():
        for name, entry in figures.items():
            if isinstance(entry, Mapping) and entry.get("reason"):
                title = f"{describe(name, descriptions)[0]} ({column})"
                titles.setdefault(entry["reason"], []).append(title)
    return [f"No {', '.join(names)}: {reason}." for reason, names in titles.items()]


def list_descriptions() -> dict[str, Figure]:
    """Return the descriptions of all figures of the package by name.

    Raises:
      UserError: a package of the extra `evaluate` is missing.
    """
    figures = [figure for distance in list_distances() for figure in distance.figures]
    # Imported here, because they need the extra, which is checked by now.
    from t2i_tpu.evaluate import agreement, memorisation, smoothness, two_sample

    figures += _FIGURES
    for module in (agreement, two_sample, smoothness, memorisation):
        figures += module.FIGURES
    return {figure.name: figure for figure in figures}
