"""What the launch scripts share: flags, the config flag's errors, and one-line user errors."""

import logging as python_logging
import os
import re
import sys
import typing
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from t2i_tpu import config as config_lib
from t2i_tpu import installed
from t2i_tpu.errors import UserError
from t2i_tpu.findings import report
from t2i_tpu.options import suggest

_WRONG_CONFIG = "--config: the file's get_config() must return a t2i_tpu.config.Config"
# How absl and ml_collections put it, by where the overrides stand.
_GAVE_NONE = re.compile("--config (must have|was specified)|Attribute <class 'NoneType'>")


def define_config() -> flags.FlagHolder:
    """--config=FILE.py with typed overrides --config.train.total_steps=100."""
    # Fields with choices are annotated with Literal, which the library does not know.
    config_flags.register_flag_parser_for_type(typing.Literal, flags.ArgumentParser())
    return config_flags.DEFINE_config_file("config", None, "Experiment: a file of configs/.")


def define_strategy() -> flags.FlagHolder:
    return flags.DEFINE_enum("strategy", "auto", config_lib.STRATEGIES, "Where to compute.")


def define_sampling() -> Callable[[], dict[str, object]]:
    """The flags of a trained run and its sampler; the result gives them as `trained.load_trained` takes
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


def run(
    main: Callable[..., int | None],
    imports_tensorflow: bool = True,
    positional: str = "",
    takes_rest: bool = False,
) -> None:
    """Parses the flags, calls `main()` and exits with what it returns. Where `positional` names an
    argument that is no flag, it must be there and goes to `main`; with `takes_rest`, so does what
    follows after "--".

    What a user got wrong becomes one line on stderr and exit code 1; --verbosity=1 adds the trace.
    So do versions that are known not to work together, before TensorFlow is imported.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # tf.distribute needs it, whatever others may want
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_is_ours_or_a_warning)

    def start(argv):
        for name, value in installed.get_tpu_environment(_computes_on_local_tpu()).items():
            os.environ.setdefault(name, value)
        wrapper = _with_tensorflow if imports_tensorflow else _reported
        return wrapper(lambda: main(*argv[1:]))

    app.run(
        start,
        flags_parser=lambda argv: _reported(lambda: _parse(argv, positional, takes_rest)),
    )


def _with_tensorflow(main):
    _reported(lambda: report(installed.find_known_bad(installed.collect_facts())))
    from t2i_tpu import tensorflow_quietly  # noqa: F401
    from t2i_tpu.storage.gcs import translate_gcs_errors

    return _reported(translate_gcs_errors()(main))


def _computes_on_local_tpu() -> bool:
    """By --strategy, where the script has it. A TPU of a name is its TPU worker's."""
    strategy = flags.FLAGS["strategy"].value if "strategy" in flags.FLAGS else "cpu"
    return strategy in ("auto", "tpu") and os.environ.get("TPU_NAME", "local") == "local"


def _is_ours_or_a_warning(record: python_logging.LogRecord) -> bool:
    if "ml_collections" in record.pathname:  # warns of a get_config() that our error tells of
        return False
    return record.levelno >= python_logging.WARNING or "tensorflow" not in record.pathname


def _parse(argv: list[str], positional: str, takes_rest: bool) -> list[str]:
    end = argv.index("--") if takes_rest and "--" in argv else len(argv)
    argv, passed_on = argv[:end], argv[end + 1 :]
    is_given = any(re.match("--?config(=|$)", argument) for argument in argv[1:])
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, value = argument.lstrip("-").partition("=")
        if name.startswith("config.") and name[7:] not in config_lib.fields():
            near = suggest(name[7:], list(config_lib.fields()))
            raise UserError(f"unknown key {name}{near}")
        if name.startswith("config.") and not is_given:
            raise UserError(f"--{name} changes a config; name its file too: --config=FILE.py")
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
    except Exception as error:  # a config file is a program of the user's
        if is_given and _GAVE_NONE.search(str(error)):
            raise UserError(_WRONG_CONFIG) from error
        if isinstance(error, flags.Error):
            raise UserError(_one_line(error)) from error
        raise UserError(f"the --config file fails with {_one_line(error)}") from error
    if is_given and type(flags.FLAGS["config"].value) is not config_lib.Config:
        raise UserError(_WRONG_CONFIG)
    if positional and len(rest) < 2:
        raise UserError(f"{positional} is missing; --help says what it is")
    if len(rest) > 1 + bool(positional):
        raise UserError(
            f"{rest[-1]!r} is not a flag; flags are written --name=value (--help lists them)"
        )
    return rest + passed_on


def _one_line(error: Exception) -> str:
    """Of an error and, where a config file raised it, the last line of ml_collections' own trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
    if missing:
        return f"{' and '.join(missing)} must be given (--help says what they are)"
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
