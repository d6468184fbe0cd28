"""Parses JSON that may be damaged, so that a caller has to handle only one kind of error."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from t2i_tpu.errors import UserError

T = TypeVar("T")


class DamagedJson(ValueError):
    """A text is not JSON, or its JSON does not have the expected content."""


def parse(content: str | bytes, build: Callable[[Any], T]) -> T:
    """Parse JSON and build a value from the result.

    Args:
      content: the text, or the text in UTF-8.
      build: returns the value; it may assume that the JSON has the expected content.

    Raises:
      DamagedJson: `content` is not JSON, or `build` failed on what it holds.
      UserError: `build` raised it.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        return build(json.loads(text))
    except UserError:
        raise
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,  # nested too deeply
        TypeError,
        ValueError,
    ) as error:
        raise DamagedJson(f"{type(error).__name__}: {error}") from error
