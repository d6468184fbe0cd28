"""Options: dataclass fields that carry their meaning and bounds, and the parsing of their values.

An option's type annotation is bool, int, float, str, Literal[...] of strings or tuple[T, ...], or
one of these with `| None`.
"""

import dataclasses
import difflib
import math
import struct
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from t2i_tpu.errors import UserError


def option(
    default: Any,
    help: str,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Return a dataclass field with a default, a description and bounds on its value.

    Args:
      default: the default value.
      help: the description, in one or more full sentences.
      at_least: the lowest allowed value, or None.
      below: a number that the value must be below, or None.
      at_most: the highest allowed value, or None.
    """
    metadata = {"help": help, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata=metadata)


def parse_group(kind: type, values: dict[str, Any], where: str) -> Any:
    """Return an instance of a dataclass of options, with the values of a nested dict.

    Args:
      kind: the dataclass. Its fields are options or groups of options, which are dataclasses too.
      values: at most one value per field; the other fields keep their defaults.
      where: the dotted name of the group, for error messages.

    Raises:
      UserError: a key is unknown, or a value has the wrong type or is not a choice.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    arguments = {}
    for key, value in values.items():
        name = f"{where}.{key}"
        if key not in fields:
            raise UserError(f"unknown key {name}{suggest(key, list(fields))}")
        if not dataclasses.is_dataclass(fields[key].type):
            arguments[key] = _parse_value(fields[key].type, value, name)
        elif isinstance(value, dict):
            arguments[key] = parse_group(fields[key].type, value, name)
        else:
            raise UserError(f"{name} is {value!r}; it must be a group of keys")
    return kind(**arguments)


def list_attributes(group: Any) -> dict[str, Any]:
    """Return a group of options as a nested dict, including attributes that are not fields.

    A config file that misspells a field creates such an attribute. dataclasses.asdict would drop
    it, but `parse_group` must see it to reject it.
    """
    return {
        name: list_attributes(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(group).items()
    }


def get_choices(field: dataclasses.Field) -> tuple[str, ...]:
    """Return the strings that a field may take, or () if it takes any value of its type."""
    kind = _strip_none(field.type)
    return get_args(kind) if get_origin(kind) is Literal else ()


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise UserError if a value is not one of the choices. The message names the nearest one."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}; it must be {describe_choices(value, choices)}")


def describe_choices(value: Any, choices: Sequence[str]) -> str:
    """Return "one of A, B, C", and the choice that is nearest to a wrong value, if one is near."""
    return f"one of {', '.join(choices)}{suggest(str(value), choices)}"


def check_bounds(name: str, value: Any, field: dataclasses.Field) -> None:
    """Raise UserError if a value, or an entry of a tuple, lies outside the bounds of its field.

    A float must also be finite in float32, the type with which models compute. It is rounded to that
    type before it is compared with the bounds.
    """
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float):
            item = check_float(name, item)
        _check_range(name, value, item, field.metadata)


def check_float(name: str, value: float) -> float:
    """Return a value rounded to float32. Raises UserError if it is infinite or NaN there."""
    try:
        rounded = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise UserError(f"{name} is {value}; it must be finite and between -3.4e38 and 3.4e38")
    return rounded


def _check_range(name: str, value: Any, item: Any, bounds: Mapping[str, Any]) -> None:
    """Raise UserError if `item`, which is `value` or an entry of it, is out of bounds."""
    at_least, below, at_most = map(bounds.get, ("at_least", "below", "at_most"))
    is_low = at_least is not None and item < at_least
    is_high = (below is not None and item >= below) or (at_most is not None and item > at_most)
    if is_low or is_high:
        subject = "each entry" if item is not value and isinstance(value, tuple) else "it"
        raise UserError(
            f"{name} is {value}; {subject} must be {describe_bounds(at_least, below, at_most)}"
        )


def describe_bounds(
    at_least: float | None = None, below: float | None = None, at_most: float | None = None
) -> str:
    """Return bounds in words, such as "at least 0 and below 1", or "" if there are none."""
    parts = [(at_least, "at least"), (below, "below"), (at_most, "at most")]
    return " and ".join(f"{words} {bound}" for bound, words in parts if bound is not None)


def suggest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean X?" for the nearest known word, or "" if none is near."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _parse_value(kind: Any, value: Any, name: str) -> Any:
    """Return `value` as the annotated type. A float may be given as an int, a tuple as a list."""
    bare = _strip_none(kind)
    if value is None and bare is not kind:
        return None
    if get_origin(bare) is Literal:
        check_choice(name, value, get_args(bare))
        return value
    if get_origin(bare) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{name} is {value!r}; it must be of type tuple")
        return tuple(_parse_value(get_args(bare)[0], item, name) for item in value)
    if bare is float and type(value) is int:
        value = _to_float(value)
    if type(value) is not bare:
        raise UserError(f"{name} is {value!r}; it must be of type {bare.__name__}")
    if bare is float and not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; it must be finite")
    return value


def _to_float(value: int) -> float:
    """Convert an int to a float, or to infinity if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _strip_none(kind: Any) -> Any:
    """Return T for T | None, and any other type as it is."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    (bare,) = (part for part in get_args(kind) if part is not NoneType)
    return bare
