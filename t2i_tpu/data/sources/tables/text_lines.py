"""Reads the lines of a text file, in any Unicode encoding and with any line endings."""

import codecs
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.sources.encoding import detect_encoding

_BLOCK_BYTES = 1 << 20


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file, local or gs://, without their endings.

    Lines end like the first one: with \\n or \\r\\n, or with \\r alone, as on old Macs. Within a line, \\r
    and NUL become spaces. Bytes that are not UTF-8 become surrogates, as `surrogateescape` defines them.

    Raises:
      tf.errors.OpError: the file cannot be read.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        block = file.read(_BLOCK_BYTES)
        encoding = detect_encoding(block)
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


def _find_end(text: str) -> str | None:
    """Return how the first line ends, or None if the text has no complete line."""
    newline, carriage_return = text.find("\n"), text.find("\r")
    if carriage_return < 0 or 0 <= newline <= carriage_return + 1:
        return "\n" if newline >= 0 else None
    return "\r" if carriage_return + 1 < len(text) else None


def _clean(line: str) -> str:
    return line.removesuffix("\r").replace("\r", " ").replace("\n", " ").replace("\0", " ")
