"""What the launch scripts share: flags, the config flag's errors, and one-line user errors."""

import logging as python_logging
import os
import sys
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


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags, calls `main()` and exits with what it returns.

    What a user got wrong becomes one line on stderr and exit code 1; --verbosity=1 adds the trace.
    """
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_is_ours_or_a_warning)
    app.run(lambda _: _reported(main), flags_parser=lambda argv: _reported(lambda: _parse(argv)))


def _is_ours_or_a_warning(record: python_logging.LogRecord) -> bool:
    return record.levelno >= python_logging.WARNING or "tensorflow" not in record.pathname


def _parse(argv: list[str]) -> list[str]:
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name[7:] not in config_lib.field_names():
            near = config_lib.nearest(name[7:], config_lib.field_names())
            raise UserError(f"unknown key {name}{near}")
        if name == "config" and "=" in argument:
            path = argument.split("=", 1)[1]
            if not os.path.isfile(path):
                raise UserError(f"--config: there is no file {path!r}")
            sys.path.append(
                os.path.dirname(os.path.abspath(path))
            )  # a config may import its neighbours
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise UserError(
            f"{rest[1]!r} is not a flag; flags are written --name=value (--help lists them)"
        )
    return rest


def _reported(call):
    try:
        return call()
    except UserError as error:
        if flags.FLAGS.is_parsed() and logging.get_verbosity() >= logging.DEBUG:
            raise
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        sys.exit(1)
