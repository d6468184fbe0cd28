"""Checks whether a run can work on this machine: devices, precision, workdir, data, disk and memory.

`examine` checks everything, for launch/doctor.py. `check_run` makes only the checks that take no time,
before training starts. Checks that do not need TensorFlow are in `t2i_tpu.compatibility`.
"""

from collections.abc import Iterator

import keras
import tensorflow as tf

from t2i_tpu import cluster, installed
from t2i_tpu import config as config_lib
from t2i_tpu.compatibility import find_known_bad
from t2i_tpu.config import Config, TrainConfig
from t2i_tpu.data.locate import locate
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.engines.engine import divide_batch
from t2i_tpu.engines.hardware import choose_dtype_policy, list_gpus
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding, report
from t2i_tpu.models.denoiser import find_conditioner
from t2i_tpu.run import capacity
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.storage import access, files, outputs


def check_run(config: Config, workdir: str, checkpoint_bytes: int) -> None:
    """Check for GPUs that are known to fail, and for disk space, and log warnings.

    Args:
      config: a resolved config.
      workdir: local or gs://.
      checkpoint_bytes: size of a checkpoint.

    Raises:
      UserError: the run would fail on this machine.
    """
    facts = installed.collect_facts()
    findings = [
        *_check_unseen_gpus(facts),
        capacity.check_disk(config, workdir, checkpoint_bytes),
    ]
    # Everything but the GPUs was checked before TensorFlow was imported.
    engine = keras.backend.backend()
    reported = find_known_bad(facts, engine)
    for capability in {gpu.capability for gpu in list_gpus()} - {None}:
        bad = find_known_bad(facts | {installed.CAPABILITY: capability}, engine)
        findings += set(bad) - set(reported)
    report(findings)


def examine(config: Config | None, workdir: str | None) -> Iterator[Finding]:
    """Yield the findings about everything that can be checked.

    Args:
      config: a config that is not resolved yet. If it is None, only the machine and the workdir are
        checked.
      workdir: local or gs://. If it is None, the workdir is not checked.
    """
    yield _check_tensorflow()
    yield from _list_devices()
    yield from _check_unseen_gpus(installed.collect_facts())
    try:
        config = config and config_lib.resolve(config)
        if config:
            find_conditioner(config)
    except UserError as error:
        yield Finding(PROBLEM, "config", str(error))
        config = None
    yield _check_precision(config.train if config else TrainConfig())
    finding, dataset = _check_data(config) if config else (None, None)
    if workdir:
        yield _check_workdir(workdir, config, dataset)
    if finding:
        yield finding
    if dataset:
        yield from capacity.check_capacity(config, workdir, dataset.manifest)


def _check_tensorflow() -> Finding:
    build = tf.sysconfig.get_build_info()
    text = "without CUDA"
    if build.get("cuda_version"):
        text = f"built for CUDA {build['cuda_version']}, cuDNN {build.get('cudnn_version')}"
    return Finding(OK, "tensorflow", f"{tf.__version__} imports; {text}")


def _list_devices() -> Iterator[Finding]:
    yield Finding(OK, "CPU", f"{installed.count_cores()} cores")
    for gpu in list_gpus():
        yield Finding(OK, "GPU", f"{gpu.name}, compute capability {gpu.capability}")


def _check_unseen_gpus(facts: dict[str, str]) -> list[Finding]:
    """Return a warning if there is an NVIDIA driver but the engine sees no GPU."""
    if installed.DRIVER not in facts or list_gpus():
        return []
    if keras.backend.backend() == "jax":
        import jax

        if jax.config.jax_platforms == "cpu":  # set by --strategy=cpu
            return []
        framework, extra = "JAX", "jax-gpu"
        is_gpu_build = not facts.keys().isdisjoint(installed.JAX_GPU_BUILDS)
    else:
        framework, extra = "TensorFlow", "gpu"
        is_gpu_build = tf.test.is_built_with_cuda()
    if not is_gpu_build:
        return []  # compatibility.py covers this
    # CUDA's libraries are missing, or their version is wrong (tensorflow/tensorflow#63362).
    text = f"{facts[installed.DRIVER]} is installed, but {framework} sees no GPU"
    remedy = (
        f'install CUDA\'s libraries with pip install -e ".[{extra}]", and check LD_LIBRARY_PATH and '
        "CUDA_VISIBLE_DEVICES"
    )
    return [Finding(WARNING, installed.DRIVER, text, remedy)]


def _check_precision(train: TrainConfig) -> Finding:
    """Compare a config's dtype policy with the fastest one on this machine."""
    driver = "libtpu" if keras.backend.backend() == "jax" else "tensorflow-tpu"
    has_tpu = {installed.TPU, driver} <= installed.collect_facts().keys()
    hardware = "tpu" if has_tpu else "gpu" if list_gpus() else "cpu"
    best = choose_dtype_policy(TrainConfig(), hardware)
    policy = best if train.dtype_policy == "auto" else train.dtype_policy
    # A GPU that is fast in bfloat16 is also fast in float16.
    is_fast_gpu = hardware == "gpu" and best != "float32"
    if policy == best == "float32":
        text = "float32, because this machine has no native support for shorter types"
        return Finding(OK, "precision", text)
    if policy == best or (is_fast_gpu and policy == "mixed_float16"):
        return Finding(OK, "precision", f"this machine supports {policy} natively")
    if policy == "float32":
        text = f"float32 is slower than {best} on this machine"
    else:
        text = f"{policy} is slow, because this machine does not support it natively"
    return Finding(WARNING, "precision", text, "use --config.train.dtype_policy=auto")


def _check_workdir(workdir: str, config: Config | None, dataset: Dataset | None) -> Finding:
    """Check that a workdir can be written and, if the data set is known, that the run fits into it."""
    try:
        if dataset:
            workdir_lib.check(workdir, config, dataset.manifest)
        else:
            outputs.check_folder(workdir, "--workdir=")
        access.check_writable(workdir)
    except UserError as error:
        return _make_problem("workdir", error)
    except tf.errors.OpError as error:
        reason = files.explain_error(workdir, error)
        return _make_problem("workdir", UserError(f"{workdir} cannot be read: {reason}"))
    return Finding(OK, "workdir", f"{workdir}: wrote, read and removed a file")


def _check_data(config: Config) -> tuple[Finding, Dataset | None]:
    """Read the first record of each split and the captions of the previews, and divide the batch.

    A source that still has to be converted or downloaded is left as it is.

    Returns:
      The finding, and the data set, or None if it is not prepared yet or cannot be read.
    """
    source = config.data.source
    try:
        folder = locate(source, prepare=False)
        if not folder:
            text = f"{source} exists and will be converted or downloaded when training starts"
            return Finding(OK, "data", text), None
        dataset = open_dataset(folder, config.model.conditioning, config.data.image_size)
        with translate_data_errors(dataset):
            for split in dataset.manifest.splits:
                dataset.examples(split, 1)
            captions = config.preview.captions
            dataset.examples("train", len(captions), captions)
        _check_batch(config, dataset)
    except UserError as error:
        return _make_problem("data", error), None
    except tf.errors.OpError as error:
        path = source.partition(":")[2]
        reason = UserError(f"{path} cannot be read: {files.explain_error(path, error)}")
        return _make_problem("data", reason), None
    count = dataset.manifest.num_examples("train")
    return Finding(OK, "data", f"{source}: {count} examples; the first can be read"), dataset


def _check_batch(config: Config, dataset: Dataset) -> None:
    """Raise UserError if hosts, replicas and streams do not divide the batch evenly.

    The hosts are those of TF_CONFIG. Each is assumed to have as many GPUs as this one.
    """
    size, hosts = config.train.global_batch_size, cluster.count_workers()
    divide_batch(size, hosts * max(1, len(list_gpus())))
    check_batch_divides(size, dataset.manifest.num_streams(), hosts)


def _make_problem(subject: str, error: UserError) -> Finding:
    text, _, remedy = str(error).partition("; ")
    return Finding(PROBLEM, subject, text, remedy)
