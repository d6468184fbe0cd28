"""Reads the reports that launch/evaluate.py wrote for runs."""

import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.report.figures import get_value, is_figure
from t2i_tpu.storage import files, json_files

PATH = "report/report.json"  # where launch/evaluate.py writes by default

# Sections of a report, and the groups of their figures that belong to the model.
_GROUPS = {
    "distances": ("train", "heldout"),
    "agreement": ("train", "heldout"),
    "two_sample": ("train", "heldout"),
    "interpolation": ("seeds", "prompts"),
}
# Settings that must be equal for figures of two reports to be comparable. The sampler may differ.
_SETTINGS = ("num_images", "num_real", "first_seeds", "extractor")


@dataclasses.dataclass(frozen=True)
class Report:
    """The part of a report that is compared.

    Attributes:
      step: the step of the model.
      settings: how the figures were made.
      values: the values of figures, one for each set of images, by group and name, as in
        ("heldout", "kid").
    """

    step: int
    settings: dict[str, Any]
    values: dict[tuple[str, str], list[float]]


def read_report(workdir: str) -> Report | None:
    """Return the report of a run, or None if it has none.

    Args:
      workdir: local or gs://.

    Raises:
      UserError: the report cannot be read, or is damaged.
    """
    path = posixpath.join(workdir, PATH)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {files.explain_error(path, error)}") from error
    try:
        return json_files.parse(content, _parse)
    except json_files.DamagedJson as error:
        raise UserError(f"{path} is not a report ({error}); evaluate the model again") from error


def find_difference(reports: Sequence[Report]) -> str | None:
    """Return why the figures of reports cannot be compared, or None if they can be."""
    for report in reports:
        for name, value in reports[0].settings.items():
            other = report.settings[name]
            if other != value:
                return f"they were made with different settings ({name}: {value} and {other})"
    return None


def _parse(report: Mapping[str, Any]) -> Report:
    """Return the part that is compared, or raise an error that `json_files.parse` expects."""
    settings = {name: report["settings"][name] for name in _SETTINGS}
    settings["judge"] = report.get("agreement", {}).get("judge")
    values = {}
    for section, groups in _GROUPS.items():
        for group in groups:
            for name, entry in report.get(section, {}).get(group, {}).items():
                # The mean of p-values has no meaning.
                if name.endswith("p_value"):
                    continue
                if is_figure(entry) and get_value(entry) is not None:
                    numbers = entry.get("values") if isinstance(entry, Mapping) else None
                    numbers = numbers or [get_value(entry)]
                    values[group, name] = [float(number) for number in numbers]
    for group in ("train", "heldout"):
        if losses := report.get("generalisation", {}).get(group):
            values[group, "denoising_loss"] = [float(np.mean(losses))]
    return Report(int(report["run"]["step"]), settings, values)
