"""The packages and accelerators of this machine, the engine for them, and the environment for a TPU.

This module imports neither TensorFlow nor JAX: with the wrong libtpu, the import of TensorFlow aborts
the process.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import subprocess

from t2i_tpu.metadata import is_tpu_pod

# Each of these distributions provides the module `tensorflow`.
TENSORFLOW_BUILDS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tensorflow-gpu",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
)
# Each of these distributions lets jax compute on NVIDIA GPUs.
JAX_GPU_BUILDS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
_OTHER_PACKAGES = (
    "keras",
    "numpy",
    "protobuf",
    "libtpu",
    "jax",
    "jaxlib",
    *JAX_GPU_BUILDS,
    "nvidia-cudnn-cu12",
    "tensorflow-metal",
)

# Names of the facts that are not versions of distributions.
DRIVER, CAPABILITY, TPU = "NVIDIA driver", "GPU's compute capability", "TPU chips"

_GPU_QUERY = "name", "driver_version", "compute_cap", "memory.total"

_ROOT = "/"  # root of the kernel's files about the hardware; tests replace it
_PCI_IDS = "vendor", "device"
_GOOGLE = "0x1ae0"
# PCI device -> TPU generation, as in jax's hardware_utils.py. v2 has the same id as v3.
_TPU_DEVICES = {
    "0x0027": "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7",
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU of this machine, whether or not TensorFlow can use it.

    Attributes:
      name: the model.
      driver: version of the driver.
      capability: the compute capability, such as "7.0".
      memory: bytes, or None if unknown.
    """

    name: str
    driver: str
    capability: str
    memory: int | None


def collect_facts() -> dict[str, str]:
    """Return the installed versions, and the hardware that can be detected without delay.

    Returns:
      The versions by the names of the distributions, and that of Python as "python". If this machine
      has them, also the version of the NVIDIA driver as DRIVER and the number of TPU chips as TPU.
    """
    facts = {"python": platform.python_version()}
    for name in (*TENSORFLOW_BUILDS, *_OTHER_PACKAGES):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if driver := _read_nvidia_driver():
        facts[DRIVER] = driver
    if chips := count_tpu_chips():
        facts[TPU] = str(chips)
    return facts


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def list_gpus() -> list[Gpu]:
    """Return the GPUs that nvidia-smi sees. This may take a second."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in lines.splitlines()]
    return [
        Gpu(name, driver, capability, int(memory) << 20 if memory.isdigit() else None)
        for name, driver, capability, memory in (row for row in rows if len(row) == 4)
    ]


def _read_nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None if there is no GPU."""
    if not os.path.exists(f"{_ROOT}dev/nvidiactl"):  # a container may see /proc without the device
        return None
    try:
        with open(f"{_ROOT}proc/driver/nvidia/version") as file:
            match = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", file.read())
    except OSError:
        return None
    return match[1] if match else None


def count_tpu_chips() -> int:
    """Return the number of TPU chips on the PCI bus.

    No device is opened, so a process that computes on them is not disturbed.
    """
    return len(_list_tpu_generations())


def is_tpu_build() -> bool:
    """Return whether the TPU build of TensorFlow is installed.

    An installed libtpu does not show this, because jax may have installed it.
    """
    return _is_installed("tensorflow-tpu")


def choose_engine(name: str, strategy: str) -> str:
    """Return the engine that computes: "tensorflow" or "jax".

    Args:
      name: the value of --engine. "auto" means TensorFlow, except on a TPU that JAX can
        drive and the installed TensorFlow cannot.
      strategy: the value of --strategy.
    """
    if name != "auto":
        return name
    generations = _list_tpu_generations()
    if not generations or strategy in ("cpu", "gpu") or not is_tpu_local():
        return "tensorflow"
    if generations[0] == "v7" or (generations[0] == "v6e" and is_tpu_pod()):
        return "jax"
    return "jax" if _is_installed("jax") and not is_tpu_build() else "tensorflow"


def is_tpu_local() -> bool:
    """Return whether this process drives the TPU itself, because TPU_NAME names no TPU worker."""
    return os.environ.get("TPU_NAME") in (None, "", "local")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def get_tpu_environment(computes_on_it: bool) -> dict[str, str]:
    """Return the environment variables that libtpu and TensorFlow need when they are imported.

    From v5 on, TensorFlow reaches a TPU through PJRT only (keras.io's example "DistributedEmbedding
    using TPU SparseCore and TensorFlow"). With these variables, the import occupies the chips, and
    aborts if another process occupies them.

    Args:
      computes_on_it: whether this process computes on the machine's TPU.
    """
    generations = _list_tpu_generations()
    if not generations:
        # Otherwise libtpu waits minutes for the metadata server of a TPU VM.
        return {"TPU_SKIP_MDS_QUERY": "1"}
    libtpu = importlib.util.find_spec("libtpu")
    if not computes_on_it or generations[0] in ("v3", "v4") or not (is_tpu_build() and libtpu):
        return {}
    return {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(pathlib.Path(libtpu.origin).parent / "libtpu.so"),
    }


def _list_tpu_generations() -> list[str]:
    """Return the generation of each TPU chip on the PCI bus."""
    generations = []
    for folder in glob.glob(f"{_ROOT}sys/bus/pci/devices/*/"):
        try:
            vendor, device = (pathlib.Path(folder, name).read_text().strip() for name in _PCI_IDS)
        except OSError:
            continue
        if vendor == _GOOGLE and device in _TPU_DEVICES:
            generations.append(_TPU_DEVICES[device])
    return generations
