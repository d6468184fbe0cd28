"""Reads and writes the evaluations of a run: files with the figures that evaluate/monitor.py measured.

evaluations/step_N.json is an object. Its "figures" are numbers by their names in FIGURES.
"""

import json
import math
import posixpath
import re

import tensorflow as tf

from t2i_tpu.config import TrainConfig
from t2i_tpu.storage import files, json_files, outputs

# Each figure, and whether higher values are better. config.train.best_metric names one of them.
FIGURES = {
    "kid": False,
    "kid_standard_error": False,
    "condition_accuracy": True,
    "train_loss": False,
    "heldout_loss": False,
}


def is_due(train: TrainConfig, step: int) -> bool:
    """Return whether a run evaluates its model after a step."""
    every = train.evaluate_every
    return bool(every and step and (step % every == 0 or step == train.total_steps))


def is_missing(train: TrainConfig, workdir: str, step: int) -> bool:
    """Return whether an evaluation is due after a step, but its file does not exist."""
    return is_due(train, step) and not tf.io.gfile.exists(_get_path(workdir, step))


def write(workdir: str, step: int, evaluation: dict) -> None:
    """Write an evaluation into a workdir, local or gs://.

    Args:
      workdir: local or gs://.
      step: the number of steps that the evaluated model was trained for.
      evaluation: the content of the file, which can be written as JSON.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps({"step": step} | evaluation, indent=1) + "\n"
    outputs.write_file(_get_path(workdir, step), text.encode())


def read(workdir: str, step: int) -> dict | None:
    """Return the evaluation of a step, or None if there is none or its file is damaged."""
    try:
        with tf.io.gfile.GFile(_get_path(workdir, step), "rb") as file:
            return json_files.parse(file.read(), _check)
    except (tf.errors.NotFoundError, json_files.DamagedJson):
        return None


def read_all(workdir: str) -> dict[int, dict]:
    """Return the evaluations of a workdir by step, in the order of the steps."""
    evaluations = {step: read(workdir, step) for step in _list_steps(workdir)}
    return {step: evaluation for step, evaluation in evaluations.items() if evaluation}


def read_figure(workdir: str, step: int, name: str) -> float:
    """Return a figure of the evaluation of a step, or NaN if there is none."""
    evaluation = read(workdir, step)
    return evaluation["figures"].get(name, math.nan) if evaluation else math.nan


def remove_after(workdir: str, step: int) -> None:
    """Remove the evaluations of later steps, which a run reaches again after a rollback."""
    for later in _list_steps(workdir):
        if later > step:
            tf.io.gfile.remove(_get_path(workdir, later))


def _list_steps(workdir: str) -> list[int]:
    names = files.list_names(_get_folder(workdir))
    matches = [re.fullmatch(r"step_(\d+)\.json", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def _check(evaluation: dict) -> dict:
    """Return an evaluation whose figures are numbers, or raise an error that `parse` expects."""
    for name, value in evaluation["figures"].items():
        evaluation["figures"][name] = float(value)
    return evaluation


def _get_folder(workdir: str) -> str:
    return posixpath.join(workdir, "evaluations")


def _get_path(workdir: str, step: int) -> str:
    return posixpath.join(_get_folder(workdir), f"step_{step:08d}.json")
