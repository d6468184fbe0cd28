"""What a run will meet on this machine: devices, precision, workdir, data, disk and memory.

`examine` is all of it, for launch/doctor.py; `check_run` the part that costs no time, for training.
What can be told before TensorFlow is imported is in `t2i_tpu.installed`.
"""

import math
import os
import pathlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from t2i_tpu import config as config_lib
from t2i_tpu import installed
from t2i_tpu.config import Config, TrainConfig
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.locate import locate
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding, report
from t2i_tpu.models.denoiser import Denoiser, build_denoiser
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.storage import access, files


def check_run(config: Config, workdir: str, checkpoint_bytes: int) -> None:
    """Before the first step: known-bad GPUs, and room for the checkpoints.

    Raises:
      UserError: the run cannot end well here.
    """
    found = installed.collect_facts()
    findings = [*_unseen_gpus(found), _disk(config, workdir, checkpoint_bytes)]
    for capability in {_capability(gpu) for gpu in tf.config.list_physical_devices("GPU")} - {None}:
        # The rest was told before TensorFlow was imported.
        findings += set(installed.find_known_bad(found | {installed.CAPABILITY: capability})) - set(
            installed.find_known_bad(found)
        )
    report(findings)


def examine(config: Config | None, workdir: str | None) -> Iterator[Finding]:
    """Everything, one finding after the other; `config` as a file makes it."""
    yield _tensorflow()
    yield from _devices()
    yield from _unseen_gpus(installed.collect_facts())
    try:
        config = config and config_lib.resolve(config)
    except UserError as error:
        yield Finding(PROBLEM, "config", str(error))
        config = None
    yield _precision(config.train if config else TrainConfig())
    if workdir:
        yield _tried("workdir", lambda: _workdir(workdir))
    if not config:
        return
    opened = []
    yield _tried("data", lambda: _data(config, opened))
    for dataset in opened:
        yield from _sizes(config, workdir, dataset)


def _tensorflow() -> Finding:
    build = tf.sysconfig.get_build_info()
    cuda = build.get("cuda_version")
    text = (
        f"is built for CUDA {cuda}, cuDNN {build.get('cudnn_version')}" if cuda else "without CUDA"
    )
    return Finding(OK, "tensorflow", f"{tf.__version__} imports; {text}")


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(OK, "CPU", f"{cores} cores")
    for gpu in tf.config.list_physical_devices("GPU"):
        name = tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        yield Finding(OK, "GPU", f"{name}, compute capability {_capability(gpu)}")


def _unseen_gpus(found: dict[str, str]) -> list[Finding]:
    if installed.DRIVER not in found or tf.config.list_physical_devices("GPU"):
        return []
    if not tf.test.is_built_with_cuda():
        return []  # told by installed.KNOWN_BAD
    # tensorflow/tensorflow#63362: CUDA's libraries are missing or of another version.
    text = f"{found[installed.DRIVER]} is there, but TensorFlow loads no GPU"
    remedy = (
        'pip install -e ".[gpu]" for CUDA\'s libraries; see LD_LIBRARY_PATH, CUDA_VISIBLE_DEVICES'
    )
    return [Finding(WARNING, installed.DRIVER, text, remedy)]


def _capability(gpu: tf.config.PhysicalDevice) -> str | None:
    """ "7.0"; None where TensorFlow does not say."""
    details = tf.config.experimental.get_device_details(gpu)
    return ".".join(map(str, details.get("compute_capability", ()))) or None


def _precision(train: TrainConfig) -> Finding:
    has_tpu = {installed.TPU, "tensorflow-tpu"} <= installed.collect_facts().keys()
    best = (
        "mixed_bfloat16"
        if has_tpu
        else strategy_lib.choose_dtype_policy(TrainConfig(), tf.distribute.get_strategy())
    )
    asked = best if train.dtype_policy == "auto" else train.dtype_policy
    # A GPU that is fast in bfloat16 is so in float16.
    on_gpu = bool(tf.config.list_physical_devices("GPU")) and best != "float32"
    if asked == best or (on_gpu and asked == "mixed_float16"):
        what = "is native here" if asked != "float32" else "it is: nothing shorter is native here"
        return Finding(OK, "precision", f"{asked} {what}")
    if asked == "float32":
        remedy = f"--config.train.dtype_policy=auto would use {best}"
        return Finding(WARNING, "precision", "float32 is slower than this device can", remedy)
    text = f"{asked} is not native here and so slow"
    return Finding(WARNING, "precision", text, "--config.train.dtype_policy=auto")


def _tried(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(OK, subject, look())
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        return Finding(PROBLEM, subject, text, remedy)
    except tf.errors.OpError as error:
        return Finding(PROBLEM, subject, error.message.splitlines()[0])


def _workdir(workdir: str) -> str:
    access.check_writable(workdir)
    return f"{workdir}: written, read and removed a file"


def _data(config: Config, opened: list[Dataset]) -> str:
    """Reads the first record of each split, and puts the data set into `opened`; does not prepare
    what is not prepared yet."""
    source = config.data.source
    try:
        folder = locate(source, prepare=False)
        if not folder:
            return f"{source} is there, and will be converted or downloaded when training starts"
        dataset = open_dataset(folder, config.model.conditioning, config.data.image_size)
        with translate_data_errors(dataset):
            for split in dataset.manifest.splits:
                dataset.examples(split, 1)
    except tf.errors.OpError as error:
        path = source.partition(":")[2]
        raise UserError(f"{path} cannot be read: {files.explain_error(path, error)}") from error
    opened.append(dataset)
    return f"{source}: {dataset.manifest.num_examples('train')} examples, the first ones read"


def _sizes(config: Config, workdir: str | None, dataset: Dataset) -> Iterator[Finding]:
    """Disk and memory for a model of the config's size."""
    policy = strategy_lib.choose_dtype_policy(config.train, tf.distribute.get_strategy())
    spec = get_conditioning(config.model.conditioning).make_spec(dataset.manifest)
    denoiser = build_denoiser(config, dataset.manifest.channels, spec, policy)
    weights = sum(_bytes(weight.value) for weight in denoiser.variables)
    held = weights * (3 + len(config.train.ema_stds))  # weights, two moments, averages
    if workdir:
        yield _disk(config, workdir, held)
    yield _memory(config, denoiser, held + weights)  # and the gradients


def _disk(config: Config, workdir: str, size: int) -> Finding:
    train = config.train
    spaced = train.total_steps // train.keep_every if train.keep_every else 0
    keep = train.keep_checkpoints + train.keep_best + spaced
    text = f"{_shown(size)} a checkpoint, up to {keep} kept"
    free = access.free_bytes(workdir)
    if free is None:
        return Finding(OK, "disk", text)
    # A checkpoint is written before the oldest is removed.
    needed = size * (keep + 1) - access.used_bytes(checkpoint_store.get_folder(workdir))
    text += f": {_shown(max(0, needed))} more needed, {_shown(free)} free"
    if needed <= free:
        return Finding(OK, "disk", text)
    remedy = "free some, keep fewer (config.train.keep_*), or use another --workdir"
    return Finding(PROBLEM, "disk", text, remedy)


def _memory(config: Config, denoiser, held: int) -> Finding:
    """Of each GPU where TensorFlow has some, else of the machine."""
    replicas = len(tf.config.list_physical_devices("GPU"))
    of_gpus = [gpu.memory for gpu in installed.list_gpus() if gpu.memory]
    free = min(of_gpus, default=None) if replicas else get_available_memory()
    batch = math.ceil(config.train.global_batch_size / max(1, replicas))
    needed = held + count_forward_bytes(denoiser, batch)
    text = f"about {_shown(needed)} needed (estimate)"
    if free is None:
        return Finding(OK, "memory", text)
    text += f", {_shown(free)} {'on a GPU' if replicas else 'free'}"
    if needed <= free:
        return Finding(OK, "memory", text)
    remedy = "lower config.train.global_batch_size or config.model.widths, or close other programs"
    return Finding(WARNING, "memory", text, remedy)


def count_forward_bytes(denoiser: Denoiser, batch: int) -> int:
    """Of every intermediate result of a forward pass, by their static shapes: what backward keeps is
    among them. Beside what emoji32's process grew by in training on a CPU, the whole estimate was
    0.9 GB to 1.0 at its batch size and 5.1 GB to 2.5 at 256."""
    condition = {
        name: tf.TensorSpec((batch, *shape), dtype)
        for name, (shape, dtype) in denoiser.condition_spec.fields.items()
    }
    graph = tf.function(lambda *inputs: denoiser(*inputs, training=True)).get_concrete_function(
        tf.TensorSpec((batch, *denoiser.image_shape)), tf.TensorSpec((batch,)), condition
    )
    outputs = [out for operation in graph.graph.get_operations() for out in operation.outputs]
    return sum(_bytes(out) for out in outputs if out.shape.is_fully_defined() and out.dtype.size)


def get_available_memory() -> int | None:
    """Bytes that the system, or this container, has left; None where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (group / f"memory.{name}").read_text().strip() for name in ("max", "current")
        )
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def _bytes(tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.size


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
