"""Makes the page that compares runs."""

from collections.abc import Mapping, Sequence

import numpy as np

from t2i_tpu import html_page
from t2i_tpu.evaluate.compare.logs import Scalar
from t2i_tpu.evaluate.compare.runs import Run, read_newest_preview
from t2i_tpu.evaluate.compare.tables import Table, list_differing_fields
from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.report import plots
from t2i_tpu.evaluate.report.figures import describe
from t2i_tpu.evaluate.report.sections import COLUMNS

_EVALUATIONS = "evaluation/"  # prefix of the names of their scalars
_ERROR = "kid_standard_error"  # shown as the band of KID
_MAX_POINTS = 400  # of a curve; more cannot be seen
_MAX_MINUTES = 120


def make_page(
    runs: Sequence[Run],
    tables: Sequence[Table],
    prices: Sequence[float] | None,
    descriptions: Mapping[str, Figure],
) -> str:
    """Return the comparison of runs as an HTML document that needs no other files.

    Args:
      runs: the runs.
      tables: tables that compare them.
      prices: the price of an hour of each run in dollars, or None.
      descriptions: the descriptions of figures by name.

    Raises:
      UserError: a preview cannot be read.
    """
    parts = []
    for table in tables:
        parts.append(html_page.make_heading(table.title))
        parts += [html_page.make_paragraph(note) for note in table.notes]
        parts += [html_page.make_table(table.rows, table.header)] if table.rows else []
    parts += _plot_figures(runs, descriptions)
    parts += _plot_curves(runs, prices, descriptions)
    parts += _show_previews(runs)
    return html_page.make_page(f"Comparison of {', '.join(run.name for run in runs)}", parts)


def _plot_figures(runs: Sequence[Run], descriptions: Mapping[str, Figure]) -> list[str]:
    """Return plots of the figures of the reports, those of the held-out split if there are any."""
    evaluated = [run for run in runs if run.report]
    if len(evaluated) < 2:
        return []
    keys = [key for key in evaluated[0].report.values if key[1] in descriptions]
    split = "heldout" if any(group == "heldout" for group, _ in keys) else "train"
    shown = []
    for group, name in keys:
        title, better = describe(name, descriptions)
        lists = [run.report.values.get((group, name)) for run in evaluated]
        if group != split or not better or not all(lists):
            continue
        spreads = [np.std(values, ddof=1) if len(values) > 1 else np.nan for values in lists]
        names, means = [run.name for run in evaluated], [float(np.mean(row)) for row in lists]
        plot = plots.plot_points(names, means, spreads, f"{title} ({better} is better)")
        shown.append(
            plots.to_html(plot, f"{title}, {COLUMNS[split]}. {descriptions[name].meaning}")
        )
    title = f"Figures of the {COLUMNS[split]}"
    return [html_page.make_heading(title, 3), plots.to_row(shown)] if shown else []


def _plot_curves(runs: Sequence[Run], prices, descriptions: Mapping[str, Figure]) -> list[str]:
    """Return plots of the training loss and of evaluations against steps, images, time and cost."""
    names = dict.fromkeys(name for run in runs for name in run.scalars)
    wanted = [name for name in names if name.startswith(_EVALUATIONS) and not name.endswith(_ERROR)]
    parts = []
    for name in ["loss", *wanted]:
        title, better = describe(name.removeprefix(_EVALUATIONS), descriptions)
        title = "training loss" if name == "loss" else title
        label = f"{title} ({better} is better)" if better else title
        parts.append(html_page.make_heading(f"Curves: {title}"))
        if name == "loss":
            parts += _warn_about_losses(runs)
        shown = []
        for axis, scales in _make_axes(runs, prices).items():
            curves = [
                _make_curve(run, name, scale)
                for run, scale in zip(runs, scales, strict=True)
                if name in run.scalars and run.scalars[name].steps
            ]
            if curves:
                is_loss = name.endswith("loss")
                is_loss = is_loss and all(value > 0 for curve in curves for value in curve.y)
                plot = plots.plot_curves(curves, axis, label, log_y=is_loss)
                text = f"{title[:1].upper()}{title[1:]} against {axis}."
                shown.append(plots.to_html(plot, text))
        parts.append(plots.to_row(shown))
    return parts


def _warn_about_losses(runs: Sequence[Run]) -> list[str]:
    names = [f"config.{n}" for n in list_differing_fields(runs) if n.startswith("diffusion.")]
    if not names:
        return []
    text = (
        f"The runs differ in {', '.join(names)}, so their training losses may measure different things. "
        "Compare the figures of their evaluations instead."
    )
    return [html_page.make_paragraph(text, "problem")]


def _make_axes(runs: Sequence[Run], prices) -> dict[str, list[tuple[str, float]]]:
    """Return, for each horizontal axis, the attribute of `Scalar` and each run's factor for it."""
    is_short = max(run.seconds for run in runs) < 60 * _MAX_MINUTES
    unit, length = ("minutes", 60) if is_short else ("hours", 3600)
    axes = {
        "training step": [("steps", 1.0) for _ in runs],
        "images seen": [("steps", run.config.train.global_batch_size) for run in runs],
        f"time of training ({unit})": [("seconds", 1 / length) for _ in runs],
    }
    if prices:
        axes["estimated cost ($)"] = [("seconds", price / 3600) for price in prices]
    return axes


def _make_curve(run: Run, name: str, scale: tuple[str, float]) -> plots.Curve:
    """Return the curve of a scalar. In a long curve, neighboring points are averaged."""
    attribute, factor = scale
    scalar = run.scalars[name]
    positions = np.array(getattr(scalar, attribute)) * factor
    spread = None
    if name == f"{_EVALUATIONS}kid":
        spread = _find_errors(run.scalars.get(f"{_EVALUATIONS}{_ERROR}"), scalar)
    values = np.array(scalar.values)
    if len(values) > _MAX_POINTS:
        positions, values = (
            np.array([part.mean() for part in np.array_split(array, _MAX_POINTS)])
            for array in (positions, values)
        )
        spread = None
    return plots.Curve(run.name, positions, values, spread)


def _find_errors(errors: Scalar | None, scalar: Scalar) -> list[float] | None:
    """Return the standard error of each value of a scalar, or None if some are unknown."""
    by_step = dict(zip(errors.steps, errors.values, strict=True)) if errors else {}
    if not all(step in by_step for step in scalar.steps):
        return None
    return [by_step[step] for step in scalar.steps]


def _show_previews(runs: Sequence[Run]) -> list[str]:
    """Return the newest previews of the runs, side by side."""
    cells = []
    for run in runs:
        preview = read_newest_preview(run.workdir)
        if preview:
            step, picture = preview
            cells.append(html_page.make_picture(picture, f"{run.name}, step {step:,}"))
    if not cells:
        return []
    text = (
        "The newest preview of each run shows drawn images next to real ones. All runs use the same "
        "prompts and seeds, unless config.preview or config.data differs."
    )
    pictures = f'<div class="previews">{"".join(cells)}</div>'
    return [html_page.make_heading("Previews"), html_page.make_paragraph(text), pictures]
