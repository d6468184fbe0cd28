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
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from t2i_tpu import config as config_lib
from t2i_tpu import flag_parsing, flag_values, framework, installed
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.options import describe_bounds
from t2i_tpu.process import fast_exit, interrupts, output
from t2i_tpu.storage import paths

if typing.TYPE_CHECKING:
    from t2i_tpu.api.model import Model


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
        framework.ENGINES,
        "Framework to compute with. auto uses TensorFlow, except on a TPU that only JAX can use.",
    )


def define_sampling(needs_workdir: bool = True) -> dict[str, flags.FlagHolder]:
    """Define the flags that choose a trained model, its hardware and its settings.

    Args:
      needs_workdir: whether --workdir must be given.

    Returns:
      The flags by the names of the arguments of `t2i_tpu.load` that they set; see `get_values`.
    """
    holders = {
        "workdir": define_path(
            "workdir", None, "Folder or gs://bucket/path of a trained model.", is_output=False
        ),
        "strategy": define_strategy(),
        "engine": define_engine(),
        **_define_weights("", "The default is {}."),
        "guide_workdir": define_path(
            "guide_workdir",
            None,
            "Folder or gs://bucket/path of a weaker model, which guides the model (autoguidance, Karras "
            "et al., 2024). Each of the flags --guide_... turns this on. The default is --workdir.",
            is_output=False,
        ),
        **_define_weights(
            "guide_",
            "For the weaker model. The default is the value of the model or, with --guide_workdir, {}.",
        ),
    }
    for field in dataclasses.fields(config_lib.SampleConfig):
        limits = {name: field.metadata[name] for name in ("at_least", "below", "at_most")}
        bounds = describe_bounds(**limits)
        text = f"{field.metadata['help']} {bounds.capitalize()}{'. ' if bounds else ''}"
        text += "The default is the value in the model's config."
        holders[field.name] = flag_values.define_option(field, text)
    if needs_workdir:
        flags.mark_flag_as_required("workdir")
    return holders


def _define_weights(prefix: str, default: str) -> dict[str, flags.FlagHolder]:
    """Define --step and --average, with a prefix. `default` describes their defaults."""
    step, average = f"{prefix}step", f"{prefix}average"
    return {
        step: flags.DEFINE_integer(
            step,
            None,
            f"Step of the checkpoint. {default.format('the newest intact one')}",
            lower_bound=1,
        ),
        average: flags.DEFINE_string(
            average,
            None,
            "Average of the weights: its relative width, or none for the trained weights. docs/runs.md says "
            f"which widths a run has. {default.format('the first of config.train.ema_stds')}",
        ),
    }


def get_values(holders: dict[str, flags.FlagHolder]) -> dict[str, object]:
    """Return the values of parsed flags by the same names."""
    return {name: holder.value for name, holder in holders.items()}


def check_guide(holders: dict[str, flags.FlagHolder], others: Sequence[flags.FlagHolder]) -> None:
    """Raise UserError if a flag of `define_sampling` chooses a weaker model and one of the others is set.

    Args:
      holders: the flags that `define_sampling` returned.
      others: flags that cannot be used together with a weaker model.
    """
    for name, holder in holders.items():
        for other in others:
            if name.startswith("guide_") and holder.value is not None and other.value:
                raise UserError(
                    f"--{name} and --{other.name} cannot guide at the same time; leave out one of them"
                )


def load_model(sampling: dict[str, flags.FlagHolder], labels: Sequence[str]) -> "Model":
    """Load the model that the flags of `define_sampling` choose.

    Args:
      sampling: the flags.
      labels: the values of --label.

    Raises:
      UserError: the model cannot be loaded, or there are labels, but the model takes prompts.
    """
    from t2i_tpu.api.load import load

    model = load(**get_values(sampling))
    if labels and not model.class_names:
        raise UserError(
            f"--label={labels[0]}: the model was trained on prompts, not on classes; use --prompt"
        )
    return model


@contextlib.contextmanager
def name_flag(name: str, value: object) -> Iterator[None]:
    """Put a flag and its value at the start of the message of any UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--{name}={value}: {error}") from error


def show_progress(count: int, unit: str = " images"):
    """Return a progress bar of `count` units. It appears after some seconds, and on terminals only."""
    from tqdm import tqdm

    return tqdm(total=count, unit=unit, disable=None, delay=3)


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
      main: the function to call. Its arguments are strings: the positional arguments and those after
        "--", if the script takes them.
      imports_tensorflow: whether to import TensorFlow before calling `main`. If the installed
        versions are known to fail together, a UserError is raised instead.
      positional: a name for the script's one argument that is not a flag, or "" if it has none. A name
        that ends in "..." stands for one or more arguments.
      takes_rest: whether `main` takes the arguments that follow "--".
      fixed_engine: the engine of this process, if it is not the one that the flags choose.
    """
    _set_up_logging()
    # --help lists the flags of the script's own module, so add those that were defined by the package.
    for module in (__name__, flag_values.__name__):
        for flag in flags.FLAGS.flags_by_module_dict().get(module, []):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse_flags(argv):
        with _exit_on_user_error(), output.exit_if_lost():
            return flag_parsing.parse(argv, positional, takes_rest)

    def start(argv):
        with _exit_on_user_error(), output.exit_if_lost():
            engine = fixed_engine or choose_engine()
            framework.set_environment(engine, _computes_on_local_tpu())
            if not imports_tensorflow:
                return main(*argv[1:])

            framework.import_tensorflow(engine)
            from t2i_tpu.storage.failures import translate_file_errors

            with translate_file_errors():
                return main(*argv[1:])

    with fast_exit.skip_destruction(), interrupts.exit_quietly():
        app.run(start, flags_parser=parse_flags)


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
