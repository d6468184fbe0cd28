"""Plots the figures of runs over the steps of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.report import plots
from t2i_tpu.evaluate.report.figures import describe

# The losses share a plot, and the standard error is drawn as the band of KID.
_LOSSES = {"train_loss": "training images", "heldout_loss": "held-out images"}
_KID_ERROR = "kid_standard_error"
Entry = Mapping[str, Any]


def plot_history(
    histories: Mapping[str, Sequence[Entry]], descriptions: Mapping[str, Figure]
) -> list[str]:
    """Return plots of the evaluations during training as HTML; [] if there are none.

    Args:
      histories: the evaluations of each run, by the run's name, or "" if there is only one. An
        evaluation is a dict of numbers by name, including "step".
      descriptions: the descriptions of figures by name.
    """
    shown = _plot_losses(histories)
    entries = [entry for history in histories.values() for entry in history]
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    for name in names:
        if name in ("step", _KID_ERROR, *_LOSSES):
            continue
        curves = [
            _make_curve(run, history, name, _KID_ERROR if name == "kid" else None)
            for run, history in histories.items()
        ]
        title, better = describe(name, descriptions)
        label = f"{title} ({better} is better)" if better else title
        shown += _to_plot(curves, label, f"{title} over the steps of training.")
    return shown


def _plot_losses(histories: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Return plots of the denoising losses, and of the gap between them."""
    losses, gaps = [], []
    for run, history in histories.items():
        for name, title in _LOSSES.items():
            losses.append(_make_curve(f"{run}: {title}" if run else title, history, name))
        both = [entry for entry in history if all(_is_number(entry.get(key)) for key in _LOSSES)]
        steps = [entry["step"] for entry in both]
        values = [entry["heldout_loss"] - entry["train_loss"] for entry in both]
        gaps.append(plots.Curve(run, steps, values))
    gap_text = "Held-out loss minus training loss over the steps of training. It should stay small."
    return [
        *_to_plot(losses, "denoising loss", "Denoising loss over the steps of training."),
        *_to_plot(gaps, "gap of the denoising loss", gap_text),
    ]


def _make_curve(title, history: Sequence[Entry], name: str, spread: str | None = None):
    """Return the curve of a figure over the steps, without the entries that lack it."""
    entries = [entry for entry in history if _is_number(entry.get(name))]
    bands = [entry.get(spread) for entry in entries] if spread else []
    has_spread = bool(bands) and all(map(_is_number, bands))
    steps, values = [entry["step"] for entry in entries], [entry[name] for entry in entries]
    return plots.Curve(title, steps, values, bands if has_spread else None)


def _to_plot(curves: Sequence[plots.Curve], y_label: str, description: str) -> list[str]:
    """Return a plot of the curves that have points, or [] if none has."""
    curves = [curve for curve in curves if len(curve.x)]
    if not curves:
        return []
    plot = plots.plot_curves(curves, "training step", y_label)
    return [plots.to_html(plot, description)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
