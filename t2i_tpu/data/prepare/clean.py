"""Turns captions and embeddings, which sources pass on in any form, into text and arrays."""

import decimal
import io
import math
import unicodedata
from typing import Any

import numpy as np

from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.sources.encoding import decode_text

_MAX_CAPTION_CHARACTERS = 8192  # a longer text is a page, not a caption
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")
# Invisible characters of other categories: combining grapheme joiner, Hangul and Khmer fillers, the
# blank of Braille, and variation selectors.
_INVISIBLE = {*"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", *map(chr, range(0xFE00, 0xFE10))}


def clean_caption(caption: Any) -> str:
    """Return a caption as one line of text.

    Runs of white space and NUL become single spaces, and byte-order marks are removed. Everything
    else is kept: case, HTML entities, and the Unicode normal form.

    Args:
      caption: text; bytes in a Unicode encoding; a number, which is written as text; or a list of
        these; the first one with visible characters is used.

    Raises:
      Rejected: no_caption (None, NaN, a truth value or an empty list), empty_caption (no visible
        character), caption_not_text (another type), caption_not_utf8 or caption_too_long.
    """
    if isinstance(caption, (list, tuple, np.ndarray)):
        return _clean_first(caption)
    text = _to_text(caption)
    if not _is_visible(text):
        raise Rejected("empty_caption")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Rejected("caption_not_utf8") from None
    if len(text) > _MAX_CAPTION_CHARACTERS:
        raise Rejected("caption_too_long")
    return " ".join(text.replace("\ufeff", "").replace("\x00", " ").split())


def _clean_first(captions: list | tuple | np.ndarray) -> str:
    """Clean the first caption that is not empty. If all are empty, the last one's cause is raised."""
    rejection = Rejected("no_caption")
    for caption in captions:
        try:
            return clean_caption(caption)
        except Rejected as error:
            if error.cause not in ("no_caption", "empty_caption"):
                raise
            rejection = error
    raise rejection


def _to_text(caption: Any) -> str:
    """Return a single caption as text; bytes that are not UTF-8 become lone surrogates."""
    if isinstance(caption, np.generic):
        caption = caption.item()
    if isinstance(caption, str):
        return caption
    if isinstance(caption, bytes):
        return decode_text(caption)
    if caption is None or isinstance(caption, bool):
        raise Rejected("no_caption")
    if isinstance(caption, float):
        if not math.isfinite(caption):
            raise Rejected("no_caption")
        # A column of integers in which some are missing is often stored as floats.
        return str(caption).removesuffix(".0")
    if isinstance(caption, (int, decimal.Decimal)):
        return str(caption)
    raise Rejected("caption_not_text")


def _is_visible(text: str) -> bool:
    """Return whether text has a visible character, or a byte that is not UTF-8."""
    return any(
        character not in _INVISIBLE and unicodedata.category(character) not in _INVISIBLE_CATEGORIES
        for character in text
    )


def clean_embedding(embedding: Any) -> np.ndarray:
    """Return an embedding as float32 [dim].

    Args:
      embedding: an array or list of numbers, [dim] or with more dimensions of size 1, or the bytes of
        an .npy file with such an array.

    Raises:
      Rejected: bad_embedding, if it is something else, is empty, or has a value that is not finite
        in float32.
    """
    try:
        if isinstance(embedding, bytes):
            embedding = np.load(io.BytesIO(embedding), allow_pickle=False)
        array = np.asarray(embedding)
    except Exception:  # broken bytes and ragged lists raise errors of many classes
        raise Rejected("bad_embedding") from None
    is_vector = array.ndim > 0 and 0 < array.size == max(array.shape)
    if not is_vector or array.dtype.kind not in "fiu":
        raise Rejected("bad_embedding")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32).ravel()
    if not np.isfinite(values).all():
        raise Rejected("bad_embedding")
    return values
