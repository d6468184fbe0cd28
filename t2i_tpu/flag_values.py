"""Defines flags for options, checks the values of flags, and explains which values a flag takes."""

import dataclasses
import re
import typing
from collections.abc import Sequence

from absl import flags

from t2i_tpu.errors import UserError
from t2i_tpu.options import (
    check_bounds,
    check_float,
    describe_bounds,
    describe_choices,
    get_choices,
)

_ILLEGAL_VALUE = re.compile(r"flag --([\w.]+)=(.*?): ", re.DOTALL)
# The options that flags were defined for, by the names of the flags.
_OPTIONS: dict[str, dataclasses.Field] = {}


class _NumbersParser(flags.ArgumentParser):
    """Parses comma-separated numbers, as in 0.2,0.8, into a tuple of floats."""

    syntactic_help = "comma-separated numbers"

    def parse(self, argument: str | Sequence[float]) -> tuple[float, ...]:
        if not isinstance(argument, str):
            return tuple(argument)
        return tuple(float(number) for number in argument.strip(" ()[]").split(","))


def define_option(field: dataclasses.Field, help: str = "") -> flags.FlagHolder:
    """Define a flag with the name, type, choices, default and help of an option.

    `check_values` compares its value with the bounds of the option.

    Args:
      field: the option; see `options.option`.
      help: text that replaces the help of the option.
    """
    _OPTIONS[field.name] = field
    name, text = field.name, help or field.metadata["help"]
    default = None if field.default is dataclasses.MISSING else field.default
    if choices := get_choices(field):
        return flags.DEFINE_enum(name, default, choices, text)
    # The annotation is a type, or an optional one such as int | None.
    kind = (typing.get_args(field.type) or (field.type,))[0]
    if typing.get_origin(kind) is tuple:
        return flags.DEFINE(_NumbersParser(), name, default, text)
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        str: flags.DEFINE_string,
    }[kind]
    return define(name, default, text)


def check_values() -> None:
    """Raise UserError if a parsed flag is out of its bounds, infinite or NaN.

    The flags of a config's fields are not checked here, but by `config.resolve`.
    """
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if name.startswith("config") or value is None:
            continue
        if name in _OPTIONS:
            check_bounds(f"--{name}", value, _OPTIONS[name])
        elif isinstance(value, float):
            check_float(f"--{name}", value)


def check_ending(flag: str, path: str, endings: Sequence[str], otherwise: str = "") -> None:
    """Raise UserError if a path has the ending of a picture format that a script does not write.

    Args:
      flag: name of the flag that gave the path.
      path: its value.
      endings: the endings that the script writes, such as ".png".
      otherwise: what a path without the ending of a picture means, or "" if it must have one.
    """
    from t2i_tpu.sample.images import is_picture_ending
    from t2i_tpu.sample.picture_files import get_ending

    ending = get_ending(path)
    if ending in endings or (otherwise and not is_picture_ending(ending)):
        return
    allowed = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
    remedy = f", or be {otherwise}" if otherwise else ""
    raise UserError(f"--{flag}={path}: the name must end in {allowed}{remedy}")


def explain_illegal_value(error: flags.Error) -> str | None:
    """Return which values a flag takes, in one line, or None if that is not known."""
    match = _ILLEGAL_VALUE.search(str(error))
    if not match or match[1] not in flags.FLAGS:
        return None
    name, value = match.groups()
    words = _describe_values(flags.FLAGS[name].parser, value)
    return words and f"--{name}={value}: it must be {words}"


def keep_last_tuples(arguments: Sequence[str], tuples: Sequence[str]) -> list[str]:
    """Return a command line in which each --config flag of a tuple is given at most once.

    ml_collections would join the values. As for all other flags, the last one counts.

    Args:
      arguments: the command line.
      tuples: the names of the flags, such as "config.model.widths".
    """
    kept, positions = [], {}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, _ = argument.lstrip("-").partition("=")
        group = [argument]
        if argument.startswith("-") and name in tuples:
            if not equals:
                group += [value for value in [next(remaining, None)] if value is not None]
            if name in positions:
                kept[positions[name]] = []
            positions[name] = len(kept)
        kept.append(group)
    return [argument for group in kept for argument in group]


def _describe_values(parser: flags.ArgumentParser, value: str) -> str | None:
    """Return which values a parser accepts, or None if that is not known."""
    if isinstance(parser, flags.EnumParser):
        return describe_choices(value, parser.enum_values)
    if isinstance(parser, flags.BooleanParser):
        return "true or false"
    if isinstance(parser, _NumbersParser):
        return "comma-separated numbers, such as 0.2,0.8"
    kinds = {flags.IntegerParser: "an integer", flags.FloatParser: "a number"}
    for kind, words in kinds.items():
        if isinstance(parser, kind):
            bounds = describe_bounds(at_least=parser.lower_bound, at_most=parser.upper_bound)
            return f"{words}, {bounds}" if bounds else words
    return None
