"""Detects the Unicode encoding of text, and decodes it.

This module does not import TensorFlow; see `prepare.settings`.
"""

import codecs

# UTF-32 comes first, because its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def detect_encoding(content: bytes) -> str:
    """Return the encoding of text that begins with these bytes: UTF-8, UTF-16 or UTF-32.

    Text in UTF-16 without a byte-order mark is recognized if it begins with two ASCII characters.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in content[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(
        tuple(zeros), "utf-8"
    )


def decode_text(content: bytes) -> str:
    """Decode a text in any Unicode encoding. Invalid bytes become surrogates."""
    try:
        return content.decode(detect_encoding(content))
    except UnicodeDecodeError:
        return content.decode("utf-8", "surrogateescape")
