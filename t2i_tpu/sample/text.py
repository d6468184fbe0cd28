"""Draws text in any script with the fonts that this machine has.

Latin is drawn with the font that Pillow ships. Other characters need the extra `fonts` (Noto fonts from
PyPI) or a font of the system. A character that no font has becomes a box, and is named in the log.
"""

import contextlib
import functools
import glob
import importlib.util
import os
import re
import subprocess
import unicodedata

from absl import logging
from PIL import ImageDraw, ImageFont, features

SIZE = 11
_REGULAR_WEIGHT = 400
# The packages of the extra `fonts`.
_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
_RIGHT_TO_LEFT = ("R", "AL")
# No font has a glyph for this.
_NEVER_ASSIGNED = "\U0010ffff"
# Characters without width that fonts lack, as keys of `str.translate`.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_reported: set[str] = set()


def measure(text: str) -> float:
    """Return the width of a line of text in pixels."""
    return sum(font.getlength(part) for part, font in _split_by_font(text))


def draw(pen: ImageDraw.ImageDraw, position: tuple[float, float], text: str, fill: str) -> None:
    """Draw a line of text whose top left corner is at a position (x, y)."""
    _report(text)
    x, y = position
    for part, font in _split_by_font(text):
        # Fonts differ in height; put their baselines at the same place.
        ascent = _get_default_font().getmetrics()[0]
        pen.text((x, y + ascent), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def _split_by_font(text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Return the parts of a text from left to right, each with a font that has its characters."""
    default, parts = _get_default_font(), []
    # macOS writes an accent as a character of its own, which few fonts have.
    for character in unicodedata.normalize("NFC", text).translate(_INVISIBLE):
        if character.isspace():
            font = default
        elif _is_mark(character) and parts:
            font = parts[-1][1]
        else:
            font = _find_font(character) or default
        if parts and parts[-1][1] is font:
            parts[-1][0] += character
        else:
            parts.append([character, font])
    if len(parts) > 1 and _starts_from_the_right(text):
        # The spaces around a part stay between it and its neighbors.
        split = [(piece, font) for part, font in parts for piece in re.split(r"(^\s+|\s+$)", part)]
        parts = [(piece, font) for piece, font in reversed(split) if piece]
    return [(part, font) for part, font in parts]


def _is_mark(character: str) -> bool:
    """Return whether a character changes the one before it, as accents and skin tones do."""
    is_skin_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return is_skin_tone or unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")


def _starts_from_the_right(text: str) -> bool:
    directions = (unicodedata.bidirectional(character) for character in text)
    strong = next((name for name in directions if name in ("L", *_RIGHT_TO_LEFT)), "L")
    return strong in _RIGHT_TO_LEFT


@functools.cache
def _get_default_font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(SIZE)


@functools.cache
def _find_font(character: str) -> ImageFont.FreeTypeFont | None:
    """Return the first font that has a character, or None."""
    if _has_glyph(_get_default_font(), character):
        return _get_default_font()
    for path, index in [*_list_package_fonts(), *_list_system_fonts(character)]:
        font = _open_font(path, index)
        if font and _has_glyph(font, character):
            return font
    return None


def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Return whether a font draws a character differently from one that it cannot have."""
    mask, missing = font.getmask(character), font.getmask(_NEVER_ASSIGNED)
    is_drawn = mask.size != missing.size or bytes(mask) != bytes(missing)
    return is_drawn and (mask.getbbox() is not None or not character.isprintable())


@functools.cache
def _open_font(path: str, index: int) -> ImageFont.FreeTypeFont | None:
    """Open a font file, or return None if it cannot be scaled, like some fonts of color emoji."""
    try:
        font = ImageFont.truetype(path, SIZE, index)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # not a variable font
        # Pillow 12 crashes if code asks for "Regular" and the font has a style without a name.
        font.set_variation_by_axes([_choose_value(axis) for axis in font.get_variation_axes()])
    return font


def _choose_value(axis: dict) -> int:
    """Return the value of an axis of a variable font that gives the regular style."""
    if axis.get("name") != b"Weight":
        return axis["default"]
    return min(max(_REGULAR_WEIGHT, axis["minimum"]), axis["maximum"])


@functools.cache
def _list_package_fonts() -> list[tuple[str, int]]:
    """Return the path and index of each upright font of the extra `fonts`."""
    paths = []
    for package in _PACKAGES:
        if spec := importlib.util.find_spec(package):
            folder = os.path.dirname(spec.origin)
            paths += sorted(glob.glob(os.path.join(glob.escape(folder), "*.tt[cf]")))
    # Noto Sans comes first, because fonts of symbols and emoji have letters too.
    paths.sort(key=lambda path: ("Emoji" in path, "Symbols" in path, "NotoSans[" not in path))
    return [(path, 0) for path in paths if "Italic" not in path]


def _list_system_fonts(character: str) -> list[tuple[str, int]]:
    """Return the path and index of the best fonts that fontconfig knows for a character."""
    pattern = f"sans:charset={ord(character):x}"
    try:
        output = subprocess.run(
            ["fc-match", "--sort", "--format=%{file}\t%{index}\n", pattern],
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split("\t") for line in output.splitlines()[:5]]
    return [(row[0], int(row[1])) for row in rows if len(row) == 2 and row[1].isdecimal()]


def _report(text: str) -> None:
    """Log once which characters are drawn as boxes, and if letters cannot be joined."""
    shown = [character for character in text if not (character.isspace() or _is_mark(character))]
    missing = [character for character in dict.fromkeys(shown) if not _find_font(character)]
    new = "".join(character for character in missing if character not in _reported)
    _reported.update(missing)
    if new:
        remedy = "pip install -e '.[fonts]'"
        if all(map(importlib.util.find_spec, _PACKAGES)):
            remedy = "install a font that has them, such as Debian's unifont"
        logging.warning("no font has %s, so pictures show boxes instead; %s", new, remedy)
    is_complex = any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text)
    if is_complex and not features.check("raqm") and "raqm" not in _reported:
        _reported.add("raqm")
        logging.warning("Pillow cannot join and order the letters of %r; install libfribidi", text)
