"""The tf.distribute strategy for a name in STRATEGIES."""

import os

import tensorflow as tf
from absl import logging

from t2i_tpu import cluster, installed
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.process import interrupts


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy for a name in STRATEGIES.

    "auto" is "multiworker" if TF_CONFIG is set, else "gpu" if there is a GPU, else "tpu" if there is
    a TPU and this is TensorFlow's TPU build, else "cpu". "gpu" and "cpu" use all (logical) devices of
    that kind. "tpu" uses all cores of the TPU named by $TPU_NAME, including all hosts of a pod, or
    of this TPU VM if TPU_NAME is not set.

    Raises:
      UserError: there is no such strategy, or this machine lacks the hardware for it.
    """
    cluster.check_strategy(name)
    # List logical devices only when needed, because afterwards workers can no longer be connected.
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        name = _choose_strategy(has_gpu)
    if name == "cpu":
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        # In a single process, collectives are no faster, and two strategies would share their keys.
        return tf.distribute.MirroredStrategy(cpus, tf.distribute.ReductionToOneDevice())
    if name == "gpu":
        if not has_gpu:
            raise UserError(
                "--strategy=gpu: TensorFlow sees no GPU; install t2i-tpu[gpu] and a driver, or "
                "use --strategy=cpu"
            )
        gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
        return tf.distribute.MirroredStrategy(gpus)
    if name == "multiworker":
        return _connect_to_workers()
    return tf.distribute.TPUStrategy(_connect_to_tpu())


def _choose_strategy(has_gpu: bool) -> str:
    """Return the strategy that "auto" stands for."""
    if os.environ.get("TF_CONFIG"):
        return "multiworker"
    if has_gpu:
        return "gpu"
    # Other builds of TensorFlow do not see a TPU, even on a TPU VM.
    has_tpu = installed.count_tpu_chips() or os.environ.get("TPU_NAME")
    return "tpu" if installed.is_tpu_build() and has_tpu else "cpu"


def _connect_to_workers() -> tf.distribute.Strategy:
    cluster.count_workers()  # raises UserError if TF_CONFIG is malformed
    logging.info("connecting to the other workers in TF_CONFIG")
    try:
        with interrupts.end_at_once():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--strategy=multiworker: the workers in TF_CONFIG cannot be used "
            f"({get_first_line(error):.160}); check their addresses, and that this worker's port is free"
        ) from error


def _connect_to_tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    name = os.environ.get("TPU_NAME") or "local"
    try:
        with interrupts.end_at_once():
            return tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu=name)
    # TensorFlow looks a name up with whichever client of Google's API is installed. Each client
    # raises errors of its own.
    except (tf.errors.OpError, ValueError, RuntimeError, ImportError, OSError) as error:
        reason = next(filter(_is_informative, str(error).splitlines()), type(error).__name__)
        place = "on this machine" if name == "local" else f"under the name TPU_NAME={name}"
        raise UserError(
            f"--strategy=tpu: no TPU was found {place} ({reason:.160}); run on a TPU VM with "
            "t2i-tpu[tpu] installed (docs/tpu.md), or use --strategy=cpu or gpu"
        ) from error


def _is_informative(line: str) -> bool:
    """Return whether a line of TensorFlow's message says what failed, not only where."""
    return bool(line) and not line.startswith(("Graph execution error", "Detected at", "<stack"))
