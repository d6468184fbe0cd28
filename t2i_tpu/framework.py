"""Chooses the framework of this process and imports TensorFlow.

Call `start` before anything imports Keras or TensorFlow.
"""

import os
import sys

from t2i_tpu import installed
from t2i_tpu.compatibility import find_known_bad
from t2i_tpu.config import STRATEGIES
from t2i_tpu.errors import UserError
from t2i_tpu.findings import report
from t2i_tpu.options import check_choice

ENGINES = ("auto", "tensorflow", "jax")


def set_environment(engine: str, computes_on_local_tpu: bool) -> None:
    """Set the variables that Keras, libtpu and TensorFlow read when they are imported.

    Args:
      engine: the engine of this process, "tensorflow" or "jax".
      computes_on_local_tpu: whether this process computes on the machine's own TPU.
    """
    os.environ["KERAS_BACKEND"] = engine
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hide TensorFlow's warnings
    for name, value in installed.get_tpu_environment(computes_on_local_tpu).items():
        os.environ.setdefault(name, value)


def import_tensorflow(engine: str, is_alone: bool = True) -> None:
    """Import TensorFlow, which reads data and writes logs on every engine.

    Args:
      engine: the engine of this process.
      is_alone: whether this process runs no user code, which allows a faster import.

    Raises:
      UserError: the installed versions are known to fail together.
    """
    report(find_known_bad(installed.collect_facts(), engine))
    if is_alone:
        from t2i_tpu.process import tensorflow_alone  # noqa: F401
    else:
        from t2i_tpu.process import tensorflow_quietly  # noqa: F401


def start(engine: str = "auto", strategy: str = "auto") -> None:
    """Choose the engine of a session that uses the Python interface, and import TensorFlow.

    Args:
      engine: "auto", "tensorflow" or "jax".
      strategy: one of `config.STRATEGIES`.

    Raises:
      UserError: a value is not allowed, Keras already runs on another framework, or the installed versions
        are known to fail.
    """
    check_choice("engine", engine, ENGINES)
    check_choice("strategy", strategy, STRATEGIES)
    chosen = installed.choose_engine(engine, strategy)
    if "keras" in sys.modules:
        backend = sys.modules["keras"].backend.backend()
        if backend not in ("tensorflow", "jax") or (engine != "auto" and backend != engine):
            raise UserError(
                f"Keras already runs on {backend} in this session, and not on {chosen}; restart the session "
                f"and import t2i_tpu first, or set the environment variable KERAS_BACKEND={chosen} before "
                "the first import of Keras"
            )
        chosen = backend
    else:
        is_tpu = strategy in ("auto", "tpu") and installed.is_tpu_local()
        set_environment(chosen, is_tpu)
    if "tensorflow" not in sys.modules:
        import_tensorflow(chosen, is_alone=False)
