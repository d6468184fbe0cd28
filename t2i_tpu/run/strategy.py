"""Where a run computes: the tf.distribute strategy, and what its hardware is good at."""

import os

import tensorflow as tf

from t2i_tpu import installed
from t2i_tpu.config import STRATEGIES, TrainConfig
from t2i_tpu.errors import UserError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """One of STRATEGIES -> its strategy.

    auto is multiworker where TF_CONFIG is set, else gpu where there is one, else tpu in
    TensorFlow's TPU build where there is one, else cpu. On gpu and cpu the batch is spread over all
    the (logical) devices of the kind; on tpu over all cores of the TPU named by $TPU_NAME (a pod's
    hosts included), else of this TPU VM.

    Raises:
      UserError: no such strategy, or not the hardware for it.
    """
    # Logical devices are asked for late: from then on it is too late for several workers.
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        name = _found(has_gpu)
    if name == "cpu":
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        # In one process there is nothing to gain from collectives, whose keys two strategies share.
        return tf.distribute.MirroredStrategy(cpus, tf.distribute.ReductionToOneDevice())
    if name == "gpu":
        if not has_gpu:
            raise UserError(
                "--strategy=gpu: TensorFlow sees no GPU; install t2i-tpu[gpu] and a driver, or use cpu"
            )
        gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
        return tf.distribute.MirroredStrategy(gpus)
    if name == "multiworker":
        if not os.environ.get("TF_CONFIG"):
            raise UserError(
                "--strategy=multiworker: TF_CONFIG is not set; it names the workers and this one's index"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return tf.distribute.TPUStrategy(_connected_tpu())
    raise UserError(f"--strategy={name}: it must be one of {', '.join(STRATEGIES)}")


def _found(has_gpu):
    if os.environ.get("TF_CONFIG"):
        return "multiworker"
    if has_gpu:
        return "gpu"
    # Any other build would find a TPU VM's cores as little as a laptop's.
    has_tpu = installed.count_tpu_chips() or os.environ.get("TPU_NAME")
    return "tpu" if installed.is_tpu_build() and has_tpu else "cpu"


def _connected_tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    name = os.environ.get("TPU_NAME") or "local"
    try:
        return tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu=name)
    # A name is looked up in Google's API by whichever client is installed, each with its own errors.
    except (tf.errors.OpError, ValueError, RuntimeError, ImportError, OSError) as error:
        reason = next(filter(_says_something, str(error).splitlines()), type(error).__name__)
        where = "on this machine" if name == "local" else f"by the name of TPU_NAME={name}"
        raise UserError(
            f"--strategy=tpu: no TPU was found {where} ({reason:.160}); run on a TPU VM with "
            "t2i-tpu[tpu] installed (docs/tpu.md), or use cpu or gpu"
        ) from error


def _says_something(line: str) -> bool:
    """Of the lines of an error out of a graph: not where, but what."""
    return bool(line) and not line.startswith(("Graph execution error", "Detected at", "<stack"))


def count_input_hosts(strategy: tf.distribute.Strategy) -> int:
    """Hosts that read the data, each its own streams."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return strategy.extended.num_hosts
    return get_host_index(strategy)[1]


def get_host_index(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Which process of the run this is, and of how many; process 0 writes the workdir.

    One process runs all of a TPU pod.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    chiefs, workers = (len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    first = 0 if resolver.task_type == "chief" else chiefs
    return first + resolver.task_id, chiefs + workers


def choose_dtype_policy(train: TrainConfig, strategy: tf.distribute.Strategy) -> str:
    """The Keras dtype policy: bfloat16 where the hardware multiplies it fast, float16 where it has
    only that, float32 otherwise."""
    if train.dtype_policy != "auto":
        return train.dtype_policy
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get(
            "compute_capability", (0, 0)
        )
        return (
            "mixed_bfloat16"
            if capability >= (8, 0)
            else "mixed_float16"
            if capability >= (7, 0)
            else "float32"
        )
    return "mixed_bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def should_use_xla(train: TrainConfig, strategy: tf.distribute.Strategy) -> bool:
    """Whether to ask XLA to compile a replica's forward and backward: on GPUs it fuses what is bound
    by memory; on CPUs oneDNN's convolutions are twice as fast as XLA's. A TPU's step is compiled
    whole without being asked, and its TensorFlow cannot compile for the host (keras #19448)."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return False
    if train.jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return train.jit_compile == "on"


def get_replica_batch_size(strategy: tf.distribute.Strategy, global_batch_size: int) -> int:
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        raise UserError(
            f"config.train.global_batch_size is {global_batch_size}; "
            f"{replicas} replicas need a multiple of {replicas}"
        )
    return global_batch_size // replicas


def _cpu_multiplies_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
