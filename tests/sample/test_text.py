"""Titles in any script are drawn, and characters that no font has are named in the log."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from t2i_tpu.sample import text

pytest.importorskip("manimgx_fonts", reason="needs the extra fonts")
pytest.importorskip("manimgx_fonts_cjk", reason="needs the extra fonts")


def draw(line):
    """Return the gray pixels of a line of text."""
    picture = Image.new("L", (300, 20), "white")
    text.draw(ImageDraw.Draw(picture), (2, 2), line, "black")
    return np.asarray(picture)


@pytest.mark.parametrize(
    "line",
    [
        "café Ω",
        "красное сердце",
        "红色的心",
        "赤いハート",
        "빨간 하트",
        "🍕 🚀 ❤️ 👍🏽",
        "قلب",
        "לב",
        "दिल",
        "หัวใจ",
        "∑ → ★",
    ],
)
def test_any_script_is_drawn_without_boxes(caplog, line):
    assert (draw(line) < 128).any() and not caplog.records
    # Each visible character differs from the box that stands for a missing one.
    boxes = draw("\U0010fffe" * len(line))
    assert (draw(line) != boxes).any()


def test_latin_is_drawn_with_the_font_of_pillow():
    line = "a red heart, 50% (of 12)"
    picture = Image.new("L", (300, 20), "white")
    ImageDraw.Draw(picture).text((2, 2), line, "black", font=ImageFont.load_default(text.SIZE))
    assert (draw(line) == np.asarray(picture)).all()
    assert text.measure(line) == ImageFont.load_default(text.SIZE).getlength(line)


def test_missing_character_is_named_once(caplog):
    for _ in range(2):
        draw("a \u0378 b")
    (record,) = caplog.records
    assert "no font has \u0378" in record.getMessage()


def test_without_the_extra_the_remedy_is_named(caplog, monkeypatch):
    monkeypatch.setattr(text, "_PACKAGES", ("no_such_package",))
    monkeypatch.setattr(text, "_list_system_fonts", lambda character: [])
    text._find_font.cache_clear()
    text._list_package_fonts.cache_clear()
    try:
        draw("心")
    finally:
        text._find_font.cache_clear()
        text._list_package_fonts.cache_clear()
    (record,) = caplog.records
    assert "no font has 心" in record.getMessage() and ".[fonts]" in record.getMessage()


@pytest.mark.parametrize(("line", "same"), [("e\u0301a", "\u00e9a"), ("a\u200bb\ufeff", "ab")])
def test_accents_of_their_own_and_characters_without_width_are_not_boxes(line, same):
    np.testing.assert_array_equal(draw(line), draw(same))
