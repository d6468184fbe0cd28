"""Makes the tables that compare runs, for the terminal and for a page."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from t2i_tpu.config import fields, get
from t2i_tpu.evaluate.compare.reports import find_difference
from t2i_tpu.evaluate.compare.runs import Run
from t2i_tpu.evaluate.compare.significance import LEVEL, compare_values
from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.report.figures import NO_VALUE, describe, format_number
from t2i_tpu.evaluate.report.sections import COLUMNS

_LINE = 100  # characters of a line of text
_LAST_SHARE = 0.1  # of the log lines, whose training loss is averaged
Values = Mapping[tuple[str, str], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with notes that explain it.

    Attributes:
      title: the heading.
      notes: sentences.
      header: the titles of the columns; [] if there is only text.
      rows: the cells of each row, the first of which names it.
    """

    title: str
    notes: list[str]
    header: list[str] = dataclasses.field(default_factory=list)
    rows: list[list[str]] = dataclasses.field(default_factory=list)

    def to_text(self) -> str:
        """Return the table as lines of text."""
        lines = [self.title]
        for note in self.notes:
            lines += textwrap.wrap(note, _LINE, break_long_words=False, break_on_hyphens=False)
        table = [row for row in (self.header, *self.rows) if row]
        if table:
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            for row in table:
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                lines.append(("  " + "  ".join(cells)).replace("\u00a0", " ").rstrip())
        return "\n".join(lines)


def list_differing_fields(runs: Sequence[Run]) -> list[str]:
    """Return the names of the config fields in which runs differ."""
    values = {name: [get(run.config, name) for run in runs] for name in fields()}
    return [name for name, row in values.items() if any(value != row[0] for value in row)]


def compare_configs(runs: Sequence[Run]) -> Table:
    """Return a table of the config fields in which runs differ."""
    names = list_differing_fields(runs)
    if not names:
        return Table("Configs", ["The configs of the runs are equal."])
    rows = [[f"config.{name}", *(str(get(run.config, name)) for run in runs)] for name in names]
    return Table(
        "Configs", ["All other fields are equal."], ["", *(run.name for run in runs)], rows
    )


def compare_progress(runs: Sequence[Run], prices: Sequence[float] | None) -> Table:
    """Return a table of the steps, time, cost and training loss of the runs.

    Args:
      runs: the runs.
      prices: the price of an hour of each run in dollars, or None.
    """
    rows = [
        ["workdir", *(run.workdir for run in runs)],
        ["steps", *(f"{run.step:,} of {run.config.train.total_steps:,}" for run in runs)],
        ["images seen", *(f"{run.step * run.config.train.global_batch_size:,}" for run in runs)],
        ["hours of training", *(f"{run.seconds / 3600:.3g}" for run in runs)],
    ]
    if prices:
        costs = [run.seconds / 3600 * price for run, price in zip(runs, prices, strict=True)]
        rows.append(["estimated cost ($)", *(f"{cost:.2f}" for cost in costs)])
    rows.append([f"training loss, last {_LAST_SHARE:.0%} of the log", *map(_average_loss, runs)])
    notes = [
        "The hours include compilation, previews, evaluations and checkpoints, but no interruptions."
    ]
    return Table("Training", notes, ["", *(run.name for run in runs)], rows)


def _average_loss(run: Run) -> str:
    loss = run.scalars.get("loss")
    if not loss or not loss.values:
        return NO_VALUE
    count = max(1, round(_LAST_SHARE * len(loss.values)))
    return format_number(float(np.mean(loss.values[-count:])))


def compare_reports(runs: Sequence[Run], descriptions: Mapping[str, Figure]) -> list[Table]:
    """Return tables of the figures of the runs' reports, with a verdict on each difference."""
    title = "Figures of the reports"
    missing = [run.name for run in runs if not run.report]
    evaluated = [run for run in runs if run.report]
    notes = []
    if missing:
        notes.append(
            f"There is no report of {', '.join(missing)}; run launch/evaluate.py --workdir=... to make one."
        )
    if len(evaluated) < 2:
        return [Table(title, notes)]
    reason = find_difference([run.report for run in evaluated])
    if reason:
        notes.append(
            f"The figures cannot be compared, because {reason}; evaluate the runs with the same flags."
        )
        return [Table(title, notes)]
    notes.append(_explain_rule(evaluated))
    columns = {run.name: run.report.values for run in evaluated}
    steps = ["step of the model", *(f"{run.report.step:,}" for run in evaluated)]
    table = _make_table(title, notes, columns, descriptions)
    table.rows.insert(0, steps + [""] * (len(table.header) - len(steps)))
    return [table, *_compare_groups(evaluated, descriptions)]


def _explain_rule(runs: Sequence[Run]) -> str:
    counts = sorted({len(values) for run in runs for values in run.report.values.values()})
    return (
        f"± is the standard deviation over sets of images with different seeds ({counts[-1]} for each "
        f"run). A difference counts if Welch's t-test on the values of the sets gives p < {LEVEL}. By "
        "chance, this happens for about one in 20 figures that do not differ. All sets of a run are drawn "
        "with the same weights; if the model is trained again with another seed, its figures may change "
        "by more."
    )


def _compare_groups(runs: Sequence[Run], descriptions: Mapping[str, Figure]) -> list[Table]:
    """Return a table that compares groups of runs whose configs differ only in their seeds, or []."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if list_differing_fields([group[0], run]) in ([], ["seed"]):
                group.append(run)
                break
        else:
            groups.append([run])
    if len(groups) < 2 or all(len(group) == 1 for group in groups):
        return []
    columns = {}
    for group in groups:
        name = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"
        keys = [key for key in group[0].report.values if all(key in r.report.values for r in group)]
        columns[name] = {
            key: [float(np.mean(run.report.values[key])) for run in group] for key in keys
        }
    notes = [
        "Runs whose configs differ only in config.seed share a column. ± is the standard deviation over "
        "these runs, so this table shows whether configs differ by more than runs with different seeds."
    ]
    return [_make_table("Figures of runs with different seeds", notes, columns, descriptions)]


def _make_table(
    title: str, notes: list[str], columns: Mapping[str, Values], descriptions: Mapping[str, Figure]
) -> Table:
    """Return a table of figures. Every column but the first is compared with the first."""
    reference, *others = columns
    header = ["", *columns, *(f"{name} against {reference}" for name in others)]
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    rows = []
    for group, name in keys:
        figure, better = describe(name, descriptions)
        label = f"{figure}, {COLUMNS.get(group, group)}"
        label += f" ({better} is better)" if better else ""
        lists = [values.get((group, name), []) for values in columns.values()]
        verdicts = [_judge(values, lists[0], better) for values in lists[1:]]
        rows.append([label, *map(_format, lists), *verdicts])
    return Table(title, notes, header, rows)


def _format(values: Sequence[float]) -> str:
    if not values:
        return NO_VALUE
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return format_number(float(np.mean(values)), spread)


def _judge(values: Sequence[float], reference: Sequence[float], better: str) -> str:
    """Return a verdict on a difference, or NO_VALUE if neither direction is better or a value is missing."""
    if not better or not values or not reference:
        return NO_VALUE
    return compare_values(values, reference).describe(better)
