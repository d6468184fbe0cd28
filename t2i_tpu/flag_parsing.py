"""Parses the command line of a launch script, with one-line errors for wrong flags and configs."""

import os
import re
import sys

from absl import flags

from t2i_tpu import config as config_lib
from t2i_tpu import flag_values
from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest
from t2i_tpu.storage import paths

_WRONG_CONFIG = "--config: the file's get_config() must return a t2i_tpu.config.Config"
# The errors of absl and ml_collections for a get_config() that returns None. Which one is raised
# depends on the order of the flags.
_CONFIG_IS_NONE = re.compile("--config (must have|was specified)|Attribute <class 'NoneType'>")


def parse(argv: list[str], positional: str, takes_rest: bool) -> list[str]:
    """Parse the flags; see `cli.run` for the arguments.

    Returns:
      The program's name, then the positional arguments and those after "--", if the script takes them.

    Raises:
      UserError: a flag or an argument is wrong, or the config file fails.
    """
    end = argv.index("--") if takes_rest and "--" in argv else len(argv)
    argv, rest = argv[:end], argv[end + 1 :]
    has_config = any(re.match("--?config(=|$)", argument) for argument in argv[1:])
    _check_config_flags(argv[1:], has_config)
    tuples = [f"config.{name}" for name in config_lib.fields() if config_lib.is_tuple(name)]
    argv = flag_values.keep_last_tuples(_normalize_config_flag(argv), tuples)
    arguments = _parse_flags(argv, has_config)
    flag_values.check_values()
    if positional and len(arguments) < 2:
        raise UserError(f"{positional} is missing; see --help")
    if len(arguments) > (2 if positional else 1) and not positional.endswith("..."):
        raise UserError(
            f"{arguments[-1]!r} is not a flag; flags are written --name=value (--help lists them)"
        )
    return arguments[:1] + [paths.parse_path(path, before="") for path in arguments[1:]] + rest


def _check_config_flags(arguments: list[str], has_config: bool) -> None:
    """Raise UserError if a --config flag names an unknown key."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        key = name.removeprefix("config.")
        if key != name and "config" not in flags.FLAGS:
            raise UserError(f"--{name} is a field of a config, and this script takes no --config")
        if key != name and key not in config_lib.fields():
            raise UserError(f"unknown key {name}{suggest(key, list(config_lib.fields()))}")
        if key != name and not has_config:
            raise UserError(
                f"--{name} changes a field of a config; add the config with --config=FILE.py"
            )


def _normalize_config_flag(argv: list[str]) -> list[str]:
    """Return the arguments with the normal form of the path in --config=PATH or --config PATH.

    Also add the folder of the config file to Python's path, because a config may import another one.

    Raises:
      UserError: there is no such file.
    """
    arguments, rest = [], iter(argv)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = paths.parse_path(value if equals else next(rest, ""), "--config=")
            if not os.path.isfile(path):
                local = "; the config must be a local file" if paths.is_remote(path) else ""
                raise UserError(f"--config: there is no file {path!r}{local}")
            sys.path.append(os.path.dirname(os.path.abspath(path)))
            argument = f"--config={path}"
        arguments.append(argument)
    return arguments


def _parse_flags(argv: list[str], has_config: bool) -> list[str]:
    """Parse the flags with absl and return the program's name and the arguments that are not flags."""
    try:
        arguments = flags.FLAGS(argv)
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:  # the config file is the user's program and may raise anything
        if has_config and _CONFIG_IS_NONE.search(str(error)):
            raise UserError(_WRONG_CONFIG) from error
        if isinstance(error.__context__, UserError):  # from a parser of our own
            raise error.__context__ from error
        if isinstance(error, flags.Error):
            explanation = flag_values.explain_illegal_value(error)
            raise UserError(explanation or _to_one_line(error)) from error
        raise UserError(f"--config: the file fails with {_to_one_line(error)}") from error
    if has_config and type(flags.FLAGS["config"].value) is not config_lib.Config:
        raise UserError(_WRONG_CONFIG)
    return arguments


def _to_one_line(error: Exception) -> str:
    """Return an error's message as one line.

    If a config file failed, ml_collections puts a traceback into the message. Only the last line of
    the traceback is kept.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
    if missing:
        return f"{' and '.join(missing)} must be given; see --help"
    if "Traceback (most recent call last):" in lines:
        return f"{lines[0].split('=')[0].removeprefix('flag ')}: {lines[-1]}"
    return " ".join(lines)
