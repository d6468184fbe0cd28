"""The command line of the launch scripts: common flags, error messages and the call of `main`.

Import this module before anything that imports TensorFlow.
"""

import contextlib
import dataclasses
import logging as python_logging
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator

from absl import app, flags, logging
from ml_collections import config_flags

from t2i_tpu import config as config_lib
from t2i_tpu import flag_values, installed
from t2i_tpu.compatibility import find_known_bad
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.findings import report
from t2i_tpu.options import suggest
from t2i_tpu.process import fast_exit, interrupts, output
from t2i_tpu.storage import paths

# TensorFlow reads this when it is imported. 2 hides its informational messages and warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_WRONG_CONFIG = "--config: the file's get_config() must return a t2i_tpu.config.Config"
# The errors of absl and ml_collections for a get_config() that returns None. Which one is raised
# depends on the order of the flags.
_CONFIG_IS_NONE = re.compile("--config (must have|was specified)|Attribute <class 'NoneType'>")


def define_config() -> flags.FlagHolder:
    """Define --config=FILE.py and a flag for each field, as in --config.train.total_steps=100."""
    # Fields with choices are annotated with Literal, which ml_collections does not know.
    config_flags.register_flag_parser_for_type(typing.Literal, flags.ArgumentParser())
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Python file that defines the experiment, such as configs/emoji32.py. Flags change its fields, "
        "as in --config.train.total_steps=100; docs/config.md describes the fields.",
    )


class _PathParser(flags.ArgumentParser):
    """Parses the value of a path flag; see `paths.parse_path`."""

    def __init__(self, name: str, is_output: bool):
        self.before, self.is_output = f"--{name}=", is_output

    def parse(self, argument: str) -> str:
        return paths.parse_path(argument, self.before, self.is_output)


def define_path(
    name: str, default: str | None, help: str, is_output: bool = True
) -> flags.FlagHolder:
    """Define a flag whose value is a path, local or gs://.

    Args:
      name: the flag's name.
      default: the default path, or None.
      help: the description of the flag.
      is_output: whether the script writes there.
    """
    return flags.DEFINE(_PathParser(name, is_output), name, default, help)


def define_strategy() -> flags.FlagHolder:
    """Define --strategy."""
    return flags.DEFINE_enum(
        "strategy",
        "auto",
        config_lib.STRATEGIES,
        "Hardware to compute on. multiworker reads TF_CONFIG. auto uses multiworker if TF_CONFIG is "
        "set, and otherwise the first of these that the machine has: GPUs, a TPU, the CPU.",
    )


def define_engine() -> flags.FlagHolder:
    """Define --engine."""
    return flags.DEFINE_enum(
        "engine",
        "auto",
        ["auto", "tensorflow", "jax"],
        "Framework that computes. auto uses TensorFlow, except on a TPU that only JAX can use.",
    )


def define_sampling() -> dict[str, flags.FlagHolder]:
    """Define --workdir for a trained model, --strategy, and flags that control sampling.

    Returns:
      The flags by the names of the arguments of `load_trained` that they set; see `get_values`.
    """
    options = {field.name: field for field in dataclasses.fields(config_lib.SampleConfig)}

    def define(name):
        text = f"{options[name].metadata['help']} The default is the value in the model's config."
        return flag_values.define_option(options[name], text)

    define_engine()
    holders = {
        "workdir": define_path(
            "workdir", None, "Folder or gs://bucket/path of a trained model.", is_output=False
        ),
        "strategy_name": define_strategy(),
        **{name: define(name) for name in ("steps", "sampler", "guidance_scale")},
    }
    flags.mark_flag_as_required("workdir")
    return holders


def get_values(holders: dict[str, flags.FlagHolder]) -> dict[str, object]:
    """Return the values of parsed flags by the same names."""
    return {name: holder.value for name, holder in holders.items()}


def run(
    main: Callable[..., int | None],
    imports_tensorflow: bool = True,
    positional: str = "",
    takes_rest: bool = False,
    fixed_engine: str | None = None,
) -> None:
    """Parse the flags, call `main` and exit with the code that it returns.

    A UserError becomes one line on stderr and exit code 1; --verbosity=1 shows the traceback too.

    Args:
      main: the function to call. Its arguments are strings: the positional argument and those after
        "--", if the script takes them.
      imports_tensorflow: whether to import TensorFlow before calling `main`. If the installed
        versions are known to fail together, a UserError is raised instead.
      positional: a name for the script's one argument that is not a flag, or "" if it has none.
      takes_rest: whether `main` takes the arguments that follow "--".
      fixed_engine: the engine of this process, if it is not the one that the flags choose.
    """
    _set_up_logging()
    # --help lists the flags of the script's own module, so add those that were defined by the package.
    for module in (__name__, flag_values.__name__):
        for flag in flags.FLAGS.flags_by_module_dict().get(module, []):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse(argv):
        with _exit_on_user_error(), output.exit_if_lost():
            return _parse(argv, positional, takes_rest)

    def start(argv):
        with _exit_on_user_error(), output.exit_if_lost():
            # Keras, libtpu and TensorFlow read these variables when they are imported.
            os.environ["KERAS_BACKEND"] = engine = fixed_engine or choose_engine()
            for name, value in installed.get_tpu_environment(_computes_on_local_tpu()).items():
                os.environ.setdefault(name, value)
            if not imports_tensorflow:
                return main(*argv[1:])

            # Check the installation, import TensorFlow, and translate its errors about files.
            report(find_known_bad(installed.collect_facts(), engine))
            from t2i_tpu.process import tensorflow_quietly  # noqa: F401
            from t2i_tpu.storage.failures import translate_file_errors

            with translate_file_errors():
                return main(*argv[1:])

    with fast_exit.skip_destruction(), interrupts.exit_quietly():
        app.run(start, flags_parser=parse)


@contextlib.contextmanager
def _exit_on_user_error() -> Iterator[None]:
    """Turn a UserError or a lack of memory into one line and exit code 1, unless tracebacks are wanted."""
    try:
        yield
    except (UserError, MemoryError) as error:
        if _wants_tracebacks():
            raise
        if isinstance(error, MemoryError):
            error = f"not enough memory ({get_first_line(error)}); close programs or use a larger machine"
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        sys.exit(1)


def _wants_tracebacks() -> bool:
    if flags.FLAGS.is_parsed():
        return logging.get_verbosity() >= logging.DEBUG
    return any(re.fullmatch("--?(v|verbosity)=[1-9]", argument) for argument in sys.argv)


def _computes_on_local_tpu() -> bool:
    """Return whether this process computes on the machine's own TPU, judging by the flags.

    If TPU_NAME names a TPU, its worker process computes, not this one.
    """
    return _get_flag("strategy", "cpu") in ("auto", "tpu") and installed.is_tpu_local()


def choose_engine() -> str:
    """Return the engine for the flags, which is also the name of Keras' backend."""
    return installed.choose_engine(_get_flag("engine", "tensorflow"), _get_flag("strategy", "auto"))


def _get_flag(name: str, default: str) -> str:
    """Return a flag's value, or the default if the script does not have the flag."""
    return flags.FLAGS[name].value if name in flags.FLAGS else default


def _set_up_logging() -> None:
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_should_log)


def _should_log(record: python_logging.LogRecord) -> bool:
    # ml_collections warns about a wrong get_config(), for which there is an error of our own.
    if "ml_collections" in record.pathname:
        return False
    is_from_framework = re.search(r"[/\\](tensorflow|jax)[/\\](?!\w+\.py)", record.pathname)
    return record.levelno >= python_logging.WARNING or not is_from_framework


def _parse(argv: list[str], positional: str, takes_rest: bool) -> list[str]:
    """Parse the flags; see `run` for the arguments.

    Returns:
      The program's name, then the positional argument and those after "--", if the script takes them.

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
    if len(arguments) > (2 if positional else 1):
        raise UserError(
            f"{arguments[-1]!r} is not a flag; flags are written --name=value (--help lists them)"
        )
    if positional:
        arguments[1] = paths.parse_path(arguments[1], before="")
    return arguments + rest


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
