"""Parses JSON that may be damaged, and raises only one kind of error."""

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
      content: JSON as text, or as bytes in UTF-8.
      build: a function that makes the value from the parsed JSON. It need not check that the JSON has
        the expected content.

    Returns:
      The value that `build` returned.

    Raises:
      DamagedJson: `content` is not JSON, or `build` failed because of its content.
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
