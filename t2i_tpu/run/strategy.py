"""The tf.distribute strategy of a run, and the settings that suit its hardware."""

import os

import tensorflow as tf
from absl import logging

from t2i_tpu import installed
from t2i_tpu.config import STRATEGIES, TrainConfig
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.process import interrupts
from t2i_tpu.run import cluster


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy for a name in STRATEGIES.

    "auto" is "multiworker" if TF_CONFIG is set, else "gpu" if there is a GPU, else "tpu" if there is
    a TPU and this is TensorFlow's TPU build, else "cpu". "gpu" and "cpu" use all (logical) devices of
    that kind. "tpu" uses all cores of the TPU named by $TPU_NAME, including all hosts of a pod, or
    of this TPU VM if TPU_NAME is not set.

    Raises:
      UserError: there is no such strategy, or this machine lacks the hardware for it.
    """
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
        if not os.environ.get("TF_CONFIG"):
            raise UserError(
                "--strategy=multiworker: TF_CONFIG is not set; set it to the addresses of the workers "
                "and the index of this one"
            )
        return _connect_to_workers()
    if name == "tpu":
        return tf.distribute.TPUStrategy(_connect_to_tpu())
    raise UserError(f"--strategy={name}: it must be one of {', '.join(STRATEGIES)}")


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


def count_input_hosts(strategy: tf.distribute.Strategy) -> int:
    """Return the number of hosts that read the data. Each of them reads different streams."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return strategy.extended.num_hosts
    return get_host_index(strategy)[1]


def get_host_index(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return the index of this process in the run and the number of processes.

    Process 0 writes the workdir. A TPU pod is run by a single process.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = (len(jobs.get(kind, ())) for kind in ("chief", "worker"))
    first = 0 if resolver.task_type == "chief" else chiefs
    return first + resolver.task_id, chiefs + workers


def choose_dtype_policy(train: TrainConfig, strategy: tf.distribute.Strategy) -> str:
    """Return the Keras dtype policy.

    "auto" means mixed_bfloat16 if the hardware multiplies bfloat16 fast, mixed_float16 if it
    multiplies only float16 fast, and float32 otherwise.
    """
    if train.dtype_policy != "auto":
        return train.dtype_policy
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def should_use_xla(train: TrainConfig, strategy: tf.distribute.Strategy) -> bool:
    """Return whether XLA should compile a replica's forward and backward pass.

    On GPUs, XLA fuses operations that are limited by memory bandwidth. On CPUs, oneDNN's convolutions
    are twice as fast as XLA's. On TPUs, the entire step is compiled anyway, and TensorFlow's TPU build
    cannot compile for the host (keras #19448).
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    if train.jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return train.jit_compile == "on"


def get_replica_batch_size(strategy: tf.distribute.Strategy, global_batch_size: int) -> int:
    """Return a replica's share of a batch.

    Raises:
      UserError: the number of replicas does not divide the batch size.
    """
    return divide_batch(global_batch_size, strategy.num_replicas_in_sync)


def divide_batch(global_batch_size: int, replicas: int) -> int:
    """Return a replica's share of a batch. Raises UserError as `get_replica_batch_size` does."""
    if global_batch_size % replicas:
        raise UserError(
            f"config.train.global_batch_size is {global_batch_size}, but it must be a multiple of "
            f"the number of replicas, {replicas}"
        )
    return global_batch_size // replicas


def _cpu_multiplies_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
