"""Reads files of prompts: text files with a prompt per line, and tables."""

from collections.abc import Mapping

import tensorflow as tf

from t2i_tpu.api.prompt_rows import PromptRow
from t2i_tpu.config import MAX_SEED, SampleConfig
from t2i_tpu.data.sources.file_names import get_ending
from t2i_tpu.data.sources.tables.csv_table import read_csv
from t2i_tpu.data.sources.tables.text_lines import read_lines
from t2i_tpu.errors import UserError, shorten
from t2i_tpu.options import check_bounds, suggest
from t2i_tpu.storage import files

_COLUMNS = ("prompt", "label", "negative_prompt", "seed", "guidance_scale", "num_images")
_SCALE = SampleConfig.__dataclass_fields__["guidance_scale"]


def read_rows(path: str, num_images: int, seed: int, negative_prompt: str = "") -> list[PromptRow]:
    """Read a file of prompts.

    A .txt file has a prompt in each line; empty lines are skipped. A .csv or .tsv file is a table whose
    heading has a column `prompt` (or `label`) and optionally `negative_prompt`, `seed`, `guidance_scale` and
    `num_images`. An empty cell means the default.

    Args:
      path: the file, local or gs://.
      num_images: the default number of images of each prompt.
      seed: the default seed of each prompt's first image.
      negative_prompt: the default negative prompt.

    Raises:
      UserError: the file cannot be read or has no prompts, or a value is not valid.
    """
    default = PromptRow("", num_images, seed, negative_prompt)
    try:
        if get_ending(path) in ("csv", "tsv"):
            rows = [_parse_row(path, *row, default) for row in read_csv(path, names_files=False)]
        elif get_ending(path) == "txt":
            rows = [
                _make_row(f"{path}: line {number}", {"prompt": line}, default)
                for number, line in enumerate(read_lines(path), 1)
                if line.strip()
            ]
        else:
            raise UserError(
                f"{path} must end in .txt (a prompt per line), .csv or .tsv (a table with a column prompt)"
            )
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {files.explain_error(path, error)}") from error
    if not rows:
        raise UserError(f"{path} has no prompts; write a prompt into each line")
    return rows


def _parse_row(path: str, number: int, cells: Mapping[str, str], default: PromptRow) -> PromptRow:
    """Return a row of a table. Column names may have capital letters and surrounding spaces."""
    cells = {column.strip().lower(): value for column, value in cells.items()}
    for column in cells:
        if column not in _COLUMNS:
            raise UserError(
                f"{path} has the unknown column {column!r}{suggest(column, _COLUMNS)}; the columns can be "
                f"{', '.join(_COLUMNS)}; rename or remove it"
            )
    if "prompt" in cells and "label" in cells:
        raise UserError(f"{path} has a column prompt and a column label; remove one of them")
    return _make_row(f"{path}: row {number}", cells, default)


def _make_row(place: str, cells: Mapping[str, str], default: PromptRow) -> PromptRow:
    """Return a row with the values of a line or of a row of a table, given by column."""
    cells = {name: value.strip() for name, value in cells.items() if value.strip()}
    for name, value in cells.items():
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{place}: {name} is not UTF-8; save the file as UTF-8")
    prompt = cells.get("prompt") or cells.get("label")
    if not prompt:
        raise UserError(f"{place} has no prompt; write what to draw into the column prompt")
    scale = default.guidance_scale
    if "guidance_scale" in cells:
        scale = _parse_number(place, "guidance_scale", cells, float)
        check_bounds(f"{place}: guidance_scale", scale, _SCALE)
    num_images, seed = default.num_images, default.seed
    if "num_images" in cells:
        num_images = _parse_number(place, "num_images", cells, int)
        if num_images < 1:
            raise UserError(f"{place}: num_images is {num_images}; it must be at least 1")
    if "seed" in cells:
        seed = _parse_number(place, "seed", cells, int)
        if not 0 <= seed <= MAX_SEED:
            raise UserError(
                f"{place}: seed is {seed}; it must be at least 0 and at most {MAX_SEED}"
            )
    try:
        negative = cells.get("negative_prompt", default.negative_prompt)
        return PromptRow(prompt, num_images, seed, negative, scale)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _parse_number(place: str, name: str, cells: Mapping[str, str], kind: type):
    try:
        return kind(cells[name])
    except ValueError:
        words = "an integer" if kind is int else "a number"
        raise UserError(
            f"{place}: {name} is {shorten(cells[name], 40)!r}; it must be {words}"
        ) from None
