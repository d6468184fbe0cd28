"""The devices of the JAX engine, and the connection of its processes."""

import os

import jax
from absl import logging

from t2i_tpu import cluster, installed, metadata
from t2i_tpu.engines.jax import processes
from t2i_tpu.errors import UserError, get_first_line


def find_devices(name: str) -> list[jax.Device]:
    """Return the devices of all processes for a name in STRATEGIES, after connecting the processes.

    "auto" is "multiworker" if TF_CONFIG is set, or else the kind of device that JAX prefers. With
    TF_CONFIG, the first worker coordinates the others. On a TPU pod without it, JAX finds the other
    hosts itself.

    Raises:
      UserError: there is no such strategy, or this machine lacks the hardware for it.
    """
    cluster.check_strategy(name)
    if os.environ.get("TF_CONFIG") and name in ("auto", "multiworker", "tpu"):
        _connect_workers()
    elif name in ("auto", "tpu") and installed.count_tpu_chips() and metadata.is_tpu_pod():
        processes.connect()
    if name == "cpu":
        # Otherwise JAX would take the memory of a GPU, too.
        jax.config.update("jax_platforms", "cpu")
    kind = name if name in ("cpu", "gpu", "tpu") else None
    try:
        devices = jax.devices(kind)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--strategy={name}: JAX sees no {kind.upper() if kind else 'device that it can use'} "
            f"({get_first_line(error):.160}); install "
            f"{'t2i-tpu[jax-gpu] and a driver' if kind == 'gpu' else 't2i-tpu[jax-tpu]'}, or use "
            "another --strategy"
        ) from error
    _check_for_cpu()
    return devices


def _check_for_cpu() -> None:
    """Check that JAX also sees the CPU, in whose memory the variables are created."""
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        raise UserError(
            f"JAX_PLATFORMS={platforms} hides the CPU from JAX; use {platforms},cpu or unset it"
        ) from error


def _connect_workers() -> None:
    """Connect to the other workers in TF_CONFIG."""
    count, index, coordinator = cluster.read_workers()
    if count > 1:
        logging.info("connecting to the other workers in TF_CONFIG")
        processes.connect(coordinator, count, index)
