"""Trains a model."""

import os

from t2i_tpu import framework
from t2i_tpu.config import Config
from t2i_tpu.storage import paths


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    engine: str = "auto",
    strategy: str = "auto",
    on_nonfinite: str = "stop",
    watchdog_minutes: float = 10,
) -> int:
    """Train a model, or resume its training, as launch/train.py does.

    Args:
      config: the experiment.
      workdir: the folder for everything that the run writes: a local path, which may start with ~, or
        gs://bucket/path.
      engine: "tensorflow", "jax", or "auto" for the engine that suits the hardware.
      strategy: the hardware; see --strategy for the choices.
      on_nonfinite: what to do if the gradients stay infinite or NaN: "stop" or "rollback".
      watchdog_minutes: minutes without a step before the log says what the run is waiting for; 0 turns
        this off.

    Returns:
      0, or 75 if Ctrl-C or SIGTERM stopped the run. Call this function again to resume it.

    Raises:
      UserError: a value is not allowed, or the run cannot start or continue.
    """
    framework.start(engine, strategy)
    from t2i_tpu.storage.failures import translate_file_errors
    from t2i_tpu.training import loop

    path = paths.parse_path(os.fspath(workdir), "", is_output=True)
    with translate_file_errors():
        return loop.train(config, path, strategy, on_nonfinite, watchdog_minutes)
