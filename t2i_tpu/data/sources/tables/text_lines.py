"""Reads the lines of a text file, in any encoding of Unicode and with any ends of lines."""

import codecs
from collections.abc import Iterator

import tensorflow as tf

_BLOCK_BYTES = 1 << 20
# UTF-32 comes first, because its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file, local or gs://, without their ends.

    The first end of a line decides: \\n or \\r\\n, or \\r alone, as old programs for the Mac write it. Within
    a line, \\r and NUL become spaces. Bytes that are not UTF-8 become surrogates, as `surrogateescape`
    defines them.

    Raises:
      tf.errors.OpError: the file cannot be read.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        block = file.read(_BLOCK_BYTES)
        encoding = _detect_encoding(block)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        end, rest = None, ""
        while block:
            text = rest + decoder.decode(block)
            end = end or _find_end(text)
            *lines, rest = text.split(end) if end else [text]
            yield from map(_clean, lines)
            block = file.read(_BLOCK_BYTES)
        rest += decoder.decode(b"", final=True)
    if rest:
        yield _clean(rest)


def _detect_encoding(content: bytes) -> str:
    """Return the encoding of the beginning of a text: UTF-8, UTF-16 or UTF-32.

    A text in UTF-16 without a byte-order mark is recognized if it begins with two ASCII characters.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in content[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(
        tuple(zeros), "utf-8"
    )


def decode_text(content: bytes) -> str | bytes:
    """Decode a text in UTF-16 or UTF-32. Any other is returned unchanged, because it should be UTF-8."""
    encoding = _detect_encoding(content)
    if encoding.startswith("utf-8"):
        return content
    return content.decode(encoding, "replace")


def _find_end(text: str) -> str | None:
    """Return the end of the first line, or None if the text has no complete line."""
    newline, carriage_return = text.find("\n"), text.find("\r")
    if carriage_return < 0 or 0 <= newline <= carriage_return + 1:
        return "\n" if newline >= 0 else None
    return "\r" if carriage_return + 1 < len(text) else None


def _clean(line: str) -> str:
    return line.removesuffix("\r").replace("\r", " ").replace("\n", " ").replace("\0", " ")
