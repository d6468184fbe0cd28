"""What the launch scripts share: flags, the config flag's errors, and one-line user errors."""

import logging as python_logging
import os
import re
import sys
import tempfile
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from t2i_tpu import config as config_lib
from t2i_tpu.errors import UserError


def define_config() -> flags.FlagHolder:
    """--config=FILE.py with typed overrides --config.train.total_steps=100."""
    return config_flags.DEFINE_config_file("config", None, "Experiment: a file of configs/.")


def define_strategy() -> flags.FlagHolder:
    return flags.DEFINE_enum(
        "strategy", "auto", ["auto", "cpu", "gpu", "multiworker", "tpu"], "Where to compute."
    )


def define_sampling() -> Callable[[], dict[str, object]]:
    """The flags of a trained run and its sampler; the result gives them as `trained.load` takes
    them, once they are parsed."""
    holders = {
        "workdir": flags.DEFINE_string("workdir", None, "Folder or gs:// path of a trained run."),
        "strategy_name": define_strategy(),
        "steps": flags.DEFINE_integer("steps", None, "Of the sampler; more is finer and slower."),
        "sampler": flags.DEFINE_string("sampler", None, "ddim or dpmpp_2m."),
        "guidance_scale": flags.DEFINE_float(
            "guidance_scale", None, "How hard to follow the prompt; 1 = off."
        ),
    }
    flags.mark_flag_as_required("workdir")
    return lambda: {name: holder.value for name, holder in holders.items()}


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags, calls `main()` and exits with what it returns.

    What a user got wrong becomes one line on stderr and exit code 1; --verbosity=1 adds the trace.
    """
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_is_ours_or_a_warning)
    app.run(lambda _: _started(main), flags_parser=lambda argv: _reported(lambda: _parse(argv)))


def _started(main):
    _import_tensorflow()
    return _reported(main)


def _import_tensorflow() -> None:
    """TensorFlow 2.21 says that oneDNN is on when it is imported, four lines that no log level
    keeps from stderr. They are shown where the import fails."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _is_ours_or_a_warning(record: python_logging.LogRecord) -> bool:
    return record.levelno >= python_logging.WARNING or "tensorflow" not in record.pathname


def _parse(argv: list[str]) -> list[str]:
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, value = argument.lstrip("-").partition("=")
        if name.startswith("config.") and name[7:] not in config_lib.field_names():
            near = config_lib.nearest(name[7:], config_lib.field_names())
            raise UserError(f"unknown key {name}{near}")
        if name == "config" and argument.startswith("-"):
            path = value if equals else following
            if not os.path.isfile(path):
                raise UserError(f"--config: there is no file {path!r}")
            # A config may import its neighbours.
            sys.path.append(os.path.dirname(os.path.abspath(path)))
    try:
        rest = flags.FLAGS(argv)
    except UserError:
        raise
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except Exception as error:  # a config file is a program of the user's
        raise UserError(f"the --config file fails with {_one_line(error)}") from error
    if "config" in flags.FLAGS and type(flags.FLAGS["config"].value) is not config_lib.Config:
        raise UserError("--config: the file's get_config() must return a t2i_tpu.config.Config")
    if len(rest) > 1:
        raise UserError(
            f"{rest[1]!r} is not a flag; flags are written --name=value (--help lists them)"
        )
    return rest


def _one_line(error: Exception) -> str:
    """Of an error and, where a config file raised it, the last line of ml_collections' own trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:
        return f"{lines[0].split('=')[0].removeprefix('flag ')}: {lines[-1]}"
    return " ".join(lines)


def _reported(call):
    try:
        return call()
    except UserError as error:
        if _wants_traces():
            raise
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        sys.exit(1)


def _wants_traces() -> bool:
    if flags.FLAGS.is_parsed():
        return logging.get_verbosity() >= logging.DEBUG
    return any(re.fullmatch("--?(v|verbosity)=[1-9]", argument) for argument in sys.argv)
