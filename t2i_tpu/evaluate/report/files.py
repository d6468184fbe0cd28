"""Writes the files of a report, and scores the sheet for guessing."""

import json
import posixpath

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.evaluation import Evaluation
from t2i_tpu.evaluate.report.guess_sheet import make_guess_sheet, score_sheet
from t2i_tpu.evaluate.report.render import render
from t2i_tpu.storage import access, files, json_files, outputs

REPORT_NAME, PAGE_NAME, SHEET_NAME = "report.json", "report.html", "guess.html"
_NAMES = (REPORT_NAME, PAGE_NAME, SHEET_NAME)


def check(folder: str) -> None:
    """Raise UserError if the files of a report cannot be written into a folder, local or gs://."""
    outputs.check_files(folder, lambda name: name in _NAMES, "--output=")
    access.check_writable(folder)


def write(folder: str, evaluation: Evaluation) -> list[str]:
    """Write an evaluation into a folder, local or gs://, and return the paths of the files.

    Raises:
      UserError: a file cannot be written.
    """
    sheet, key = make_guess_sheet(evaluation.pairs, evaluation.report["run"]["step"])
    report = evaluation.report | {"guess": key}
    page = render(Evaluation(report, evaluation.pictures, evaluation.pairs))
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    contents = {SHEET_NAME: sheet, PAGE_NAME: page, REPORT_NAME: text}  # the JSON is written last
    for name, content in contents.items():
        outputs.write_file(posixpath.join(folder, name), content.encode())
    return [posixpath.join(folder, name) for name in _NAMES]


def score(folder: str, answers: str) -> str:
    """Return the score of a file of answers as a sentence.

    Args:
      folder: the folder of the report, local or gs://.
      answers: the path of the file that the sheet saved.

    Raises:
      UserError: a file cannot be read, or the answers belong to another report.
    """
    path = posixpath.join(folder, REPORT_NAME)
    try:
        key = json_files.parse(_read(path), lambda report: report["guess"])
    except json_files.DamagedJson as error:
        raise UserError(f"{path} is not a report ({error}); evaluate the model again") from error
    return " ".join(score_sheet(_read(answers), key).describe())


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {files.explain_error(path, error)}") from error
