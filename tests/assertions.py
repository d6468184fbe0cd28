"""Assertions that several test files share."""

from collections.abc import Iterable


def assert_mentions(text: str, words: Iterable[str]) -> None:
    """Fail if one of the words, or phrases, is not in the text."""
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in {text!r}"
