"""Filters that reject unwanted examples. A filter is off unless it is given a value."""

import dataclasses
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2i_tpu.data.prepare.clean import clean_caption
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.options import option

_SIMILARITY_COLUMNS = (
    "similarity",
    "SIMILARITY",
    "clip_similarity_vitb32",
    "clip_similarity_vitl14",
)
_AESTHETIC_COLUMNS = ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score", "aesthetic_score_laion_v2")
_SIZE_COLUMNS = (("width", "height"), ("WIDTH", "HEIGHT"))
# All columns of the source that filters use.
FILTER_COLUMNS = (*_SIMILARITY_COLUMNS, *_AESTHETIC_COLUMNS, *itertools.chain(*_SIZE_COLUMNS))
_WHITE = 250  # a pixel counts as white if no channel is below this
_MIN_SCRIPT_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Filters:
    """The settings of all filters. None turns a filter off."""

    max_aspect_ratio: float | None = option(
        None,
        "Largest allowed ratio of an image's longer side to its shorter side.",
        at_least=1,
    )
    min_side: int | None = option(
        None,
        "Smallest allowed length of an image's shorter side in pixels, before resizing.",
        at_least=0,
    )
    min_words: int | None = option(
        None, "Smallest allowed number of words in a caption.", at_least=0
    )
    max_words: int | None = option(
        None, "Largest allowed number of words in a caption.", at_least=1
    )
    script: str | None = option(
        None,
        "Script to which at least 80% of a caption's letters must belong: latin, cyrillic, greek, "
        "cjk, ...",
    )
    min_similarity: float | None = option(
        None, "Smallest allowed image-text similarity, from a column of the source (LAION)."
    )
    min_aesthetic: float | None = option(
        None, "Smallest allowed aesthetic score, from a column of the source (LAION)."
    )
    max_white: float | None = option(
        None, "Largest allowed share of white pixels, from 0 to 1.", at_least=0, at_most=1
    )
    drop_same_images: bool | None = option(
        None, "Reject images whose files have the same bytes as an earlier one."
    )
    near_duplicates: int | None = option(
        None,
        "Reject images whose 64-bit perceptual hash differs from an earlier one's in at most this "
        "many bits.",
        at_least=0,
        below=16,
    )


def find_cause_without_image(
    filters: Filters, caption: Any, columns: Mapping[str, Any]
) -> str | None:
    """Return the cause for which an example is rejected whatever its image shows, or None.

    Args:
      filters: the filters to apply.
      caption: the caption of the example, in any form that `clean_caption` accepts.
      columns: the example's other values, by column name. They may include the size of the image.
    """
    size = None
    for names in _SIZE_COLUMNS:
        sides = [columns.get(name) for name in names]
        if size is None and all(isinstance(side, (int, float)) and side > 0 for side in sides):
            size = sides
    try:
        check_before_decoding(filters, size, clean_caption(caption), columns)
    except Rejected as rejection:
        return rejection.cause
    return None


def check_before_decoding(
    filters: Filters, size: Sequence[float] | None, caption: str, columns: Mapping[str, Any]
) -> None:
    """Raise Rejected if an example fails a filter that does not need its pixels.

    Args:
      filters: the filters to apply.
      size: width and height of the image, or None if they are not known.
      caption: the caption, as `clean_caption` returns it.
      columns: the example's other values, by column name.
    """
    # Size of the image.
    if size is not None:
        shorter, longer = sorted(size)
        if filters.max_aspect_ratio is not None and longer > filters.max_aspect_ratio * shorter:
            raise Rejected("aspect_ratio")
        if filters.min_side is not None and shorter < filters.min_side:
            raise Rejected("too_small")

    # Caption.
    num_words = len(caption.split())
    if filters.min_words is not None and num_words < filters.min_words:
        raise Rejected("too_few_words")
    if filters.max_words is not None and num_words > filters.max_words:
        raise Rejected("too_many_words")
    if filters.script is not None and script_share(caption, filters.script) < _MIN_SCRIPT_SHARE:
        raise Rejected("other_script")

    # Scores that came with the example.
    _check_score("similarity", filters.min_similarity, columns, _SIMILARITY_COLUMNS)
    _check_score("aesthetic_score", filters.min_aesthetic, columns, _AESTHETIC_COLUMNS)


def check_pixels(filters: Filters, pixels: np.ndarray) -> None:
    """Raise Rejected if an image, uint8 [H, W, C], fails a filter that needs its pixels."""
    if filters.max_white is not None:
        white_share = (pixels >= _WHITE).all(axis=-1).mean()
        if white_share > filters.max_white:
            raise Rejected("too_white")


def script_share(text: str, script: str) -> float:
    """Return the share of a text's letters that belong to a script, or 1 if there are no letters.

    A letter belongs to a script if its Unicode name begins with the script's name.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return 1.0
    prefix = script.upper()
    return sum(unicodedata.name(letter, "").startswith(prefix) for letter in letters) / len(letters)


def _check_score(
    name: str, minimum: float | None, columns: Mapping[str, Any], column_names: Sequence[str]
) -> None:
    """Raise Rejected if a score is missing, not a number or below the minimum."""
    if minimum is None:
        return
    values = (columns[column] for column in column_names if columns.get(column) is not None)
    try:
        score = float(next(values, None))
    except (TypeError, ValueError):
        raise Rejected(f"no_{name}") from None
    if not score >= minimum:  # rejects NaN too
        raise Rejected(f"low_{name}")
