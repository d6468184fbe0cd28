"""Checks that all processes of a run were started alike. Otherwise they would wait for each other."""

import zlib

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError


def check_config(engine: Engine, config: Config) -> None:
    """Raise UserError in every process if their resolved configs differ.

    The processes may find the same data set at different places.
    """
    names = [name for name in config_lib.fields() if name != "data.source"]
    values = {f"config.{name}": config_lib.get(config, name) for name in names}
    check_values(engine, values, "start the same command on all workers")


def check_values(engine: Engine, values: dict[str, object], remedy: str) -> None:
    """Raise UserError in every process if a value is not the same in all of them.

    Args:
      engine: the engine that connects the processes.
      values: the values of this process by their names, which must be the same in all processes.
      remedy: what to do if the values differ.
    """
    if engine.num_processes == 1:
        return
    process, hashes = engine.process, np.zeros((engine.num_processes, len(values)), int)
    # Each process fills only its own row with 31-bit hashes, so the sum contains the rows of all.
    hashes[process] = [zlib.crc32(repr(value).encode()) >> 1 for value in values.values()]
    hashes = np.reshape(engine.sum_over_processes(hashes.ravel().tolist()), hashes.shape)
    for (name, value), column in zip(values.items(), hashes.T, strict=True):
        others = np.flatnonzero(column != column[process])
        if len(others):
            raise UserError(
                f"{name} is {value!r} on worker {process}, but another value on worker "
                f"{others[0]}; {remedy}"
            )
