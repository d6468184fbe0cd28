"""What may be left out on purpose. Every filter is off until it is given a value."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2i_tpu.data.prepare.rejected import Lost

_LONGEST = 8192  # characters; a longer caption is a page, not a caption
_SIMILARITY = ("similarity", "SIMILARITY", "clip_similarity_vitb32", "clip_similarity_vitl14")
_AESTHETIC = ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score", "aesthetic_score_laion_v2")
_SIZES = (("width", "height"), ("WIDTH", "HEIGHT"))
_NEARLY_WHITE = 250


def _filter(help_text: str):
    return dataclasses.field(default=None, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class Filters:
    max_aspect_ratio: float | None = _filter("Longer side over the shorter.")
    min_side: int | None = _filter("Pixels of the shorter side, before the resize.")
    min_words: int | None = _filter("Words of a caption.")
    max_words: int | None = _filter("Words of a caption.")
    script: str | None = _filter("Of 4 in 5 letters of a caption: latin, cyrillic, greek, cjk, ...")
    min_similarity: float | None = _filter("Column of image-text similarity (LAION).")
    min_aesthetic: float | None = _filter("Column of the aesthetic score (LAION).")
    max_white: float | None = _filter("Share of white pixels, 0 to 1.")
    drop_same_images: bool | None = _filter("Drop files with the bytes of an earlier one.")
    near_duplicates: int | None = _filter(
        "Drop images whose perceptual hash is within so many of 64 bits of an earlier one's."
    )


def clean_caption(caption: str | bytes | None) -> str:
    """One line of text.

    Raises:
      Lost: no_caption, caption_not_utf8 or caption_too_long.
    """
    if isinstance(caption, bytes):
        caption = caption.decode("utf-8", "surrogateescape")
    if caption is None or not caption.strip("\ufeff\x00 \t\r\n"):
        raise Lost("no_caption")
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise Lost("caption_not_utf8") from None
    if len(caption) > _LONGEST:
        raise Lost("caption_too_long")
    return " ".join(caption.replace("\ufeff", "").replace("\x00", " ").split())


def cause_in_list(filters: Filters, caption: str | None, columns: Mapping[str, Any]) -> str | None:
    """Why a row of a list of URLs will be lost, whatever its image is."""
    listed = [[columns.get(name) for name in names] for names in _SIZES]
    known = [
        size for size in listed if all(isinstance(one, (int, float)) and one > 0 for one in size)
    ]
    size = known[0] if known else None
    try:
        check_before_decoding(filters, size, clean_caption(caption), columns)
    except Lost as loss:
        return loss.cause
    return None


def check_before_decoding(
    filters: Filters, size: Sequence[float] | None, caption: str, columns: Mapping[str, Any]
) -> None:
    """Raises Lost by the first filter that the example does not pass; size None is not known."""
    if size is not None:
        shorter, longer = sorted(size)
        if filters.max_aspect_ratio is not None and longer > filters.max_aspect_ratio * shorter:
            raise Lost("aspect_ratio")
        if filters.min_side is not None and shorter < filters.min_side:
            raise Lost("too_small")
    words = len(caption.split())
    if filters.min_words is not None and words < filters.min_words:
        raise Lost("too_few_words")
    if filters.max_words is not None and words > filters.max_words:
        raise Lost("too_many_words")
    if filters.script is not None and script_share(caption, filters.script) < 0.8:
        raise Lost("other_script")
    _at_least(filters.min_similarity, columns, _SIMILARITY, "similarity")
    _at_least(filters.min_aesthetic, columns, _AESTHETIC, "aesthetic_score")


def check_pixels(filters: Filters, pixels: np.ndarray) -> None:
    if filters.max_white is not None:
        white = (pixels >= _NEARLY_WHITE).all(axis=-1).mean()
        if white > filters.max_white:
            raise Lost("too_white")


def script_share(text: str, script: str) -> float:
    """The share of a text's letters whose Unicode name begins with `script`; 1 without letters."""
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return 1.0
    of_script = sum(unicodedata.name(one, "").startswith(script.upper()) for one in letters)
    return of_script / len(letters)


def _at_least(bound, columns, names, what):
    if bound is None:
        return
    value = next((columns[name] for name in names if columns.get(name) is not None), None)
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise Lost(f"no_{what}") from None
    if not value >= bound:
        raise Lost(f"low_{what}")
