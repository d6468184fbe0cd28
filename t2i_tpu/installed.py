"""What is installed on this machine, the combinations known to be bad, and what a TPU asks for.

Imports no TensorFlow: with a wrong libtpu the very import aborts the process.
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
import sys

from packaging.specifiers import SpecifierSet

from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding

# One module, `tensorflow`, that each of these brings.
TENSORFLOW_BUILDS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tensorflow-gpu",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
)
_OTHERS = (
    *("keras", "numpy", "protobuf", "libtpu", "jax", "jaxlib"),
    *("nvidia-cudnn-cu12", "tensorflow-metal"),
)
_ANY_BUILD = "|".join(TENSORFLOW_BUILDS)

_GPU_QUERY = "name", "driver_version", "compute_cap", "memory.total"

# Facts beside the versions of distributions.
DRIVER, CAPABILITY, TPU = "NVIDIA driver", "GPU's compute capability", "TPU chips"

_ROOT = "/"  # of the kernel's files about the hardware
_PCI_IDS = "vendor", "device"
_GOOGLE = "0x1ae0"
# As jax's hardware_utils.py lists them; v2's id is v3's.
_TPU_DEVICES = {
    **{"0x0027": "v3", "0x005e": "v4", "0x0062": "v5p"},
    **{"0x0063": "v5e", "0x006f": "v6e", "0x0076": "v7"},
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU of the machine, whether or not TensorFlow can use it."""

    name: str
    driver: str
    capability: str  # "7.0"
    memory: int | None  # bytes


@dataclasses.dataclass(frozen=True)
class KnownBad:
    """Versions that do not work together.

    Attributes:
      versions: fact, or alternatives with | between, -> its bad versions; "" is any. All must hold.
      source: who saw it.
    """

    versions: dict[str, str]
    status: str
    text: str
    remedy: str
    source: str


KNOWN_BAD = (
    KnownBad(
        {"libtpu": ">0.0.18", "tensorflow-tpu": "==2.20.*"},
        PROBLEM,
        'makes TensorFlow abort when it is imported ("ConfigureDistributedTpuOp_DoWork not available")',
        'pip install "libtpu==0.0.18"',
        "our own trial of 0.0.52; the same abort in pytorch/xla#3786, jax-ml/jax#7247",
    ),
    KnownBad(
        {"tensorflow|tensorflow-cpu": "", TPU: ""},
        WARNING,
        "is a build without TPUs, and this machine has one (the newest that knows them is 2.20)",
        'pip uninstall tensorflow tensorflow-cpu, then pip install -e ".[tpu]"',
        "tensorflow/tensorflow#96203",
    ),
    KnownBad(
        {"tensorflow-cpu": "", DRIVER: ""},
        WARNING,
        "computes on the CPU only, and this machine has an NVIDIA GPU",
        'pip uninstall tensorflow-cpu, then pip install -e ".[gpu]" (make: EXTRA=gpu)',
        "autorope/donkeycar#346, keras-team/keras-tuner#177",
    ),
    KnownBad(
        {"tensorflow": ">=2.20", DRIVER: "<525.60.13"},
        WARNING,
        "needs an NVIDIA driver of 525.60.13 or newer; older ones show it no GPU",
        "update the driver",
        "tensorflow.org/install/pip",
    ),
    KnownBad(
        {"nvidia-cudnn-cu12": ">=9.11", CAPABILITY: "<7.5"},
        PROBLEM,
        "no longer computes on GPUs before Turing (V100, P100)",
        'pip install "nvidia-cudnn-cu12<9.11"',
        "immich-app/immich#23110, Quansight/open-gpu-server#69, SciML/SciMLBenchmarks.jl#1736",
    ),
    KnownBad(
        {"tensorflow": "<2.22", CAPABILITY: ">=12"},
        WARNING,
        "has no kernels for GPUs of the RTX 5000 kind, and its XLA cannot make them "
        "(CUDA_ERROR_INVALID_PTX)",
        "use NVIDIA's TensorFlow container or another GPU; "
        "--config.train.jit_compile=off may do with 2.21",
        "tensorflow/tensorflow#89272, #99592, #111958",
    ),
    KnownBad(
        {"tensorflow-metal": "", _ANY_BUILD: ">=2.18"},
        PROBLEM,
        'makes the import of TensorFlow 2.18 and newer fail ("Symbol not found")',
        "pip uninstall tensorflow-metal",
        "tensorflow/tensorflow#84167, #81987",
    ),
    KnownBad(
        {_ANY_BUILD: "<2.20"},
        PROBLEM,
        "is older than what this package is written for",
        'pip install -e ".[cpu]", or [gpu], [tpu]',
        "setup.py",
    ),
    KnownBad(
        {_ANY_BUILD: ">=2.22.dev0"},
        WARNING,
        "is newer than what this package was tried with",
        'pip install -e ".[cpu]", or [gpu], brings one that was',
        "setup.py",
    ),
    KnownBad(
        {"keras": "<3.12"},
        PROBLEM,
        "is older than what this package is written for",
        'pip install "keras>=3.12,<4"',
        "setup.py",
    ),
)


def collect_facts() -> dict[str, str]:
    """Name -> version of what is installed, of Python, and of the hardware that can be seen at once:
    distributions, "python", DRIVER and TPU (their number) where there are any."""
    found = {"python": platform.python_version()}
    for name in (*TENSORFLOW_BUILDS, *_OTHERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    driver, chips = _nvidia_driver(), count_tpu_chips()
    return found | ({DRIVER: driver} if driver else {}) | ({TPU: str(chips)} if chips else {})


def find_known_bad(found: dict[str, str]) -> list[Finding]:
    """What is wrong with these facts: missing, installed twice, or in KNOWN_BAD."""
    findings = _missing_or_twice(found)
    for row in KNOWN_BAD:
        names = [_matching(alternatives, bad, found) for alternatives, bad in row.versions.items()]
        if all(names):
            those = " with ".join(f"{name} {found[name]}" for name in names)
            findings.append(Finding(row.status, "versions", f"{those} {row.text}", row.remedy))
    return findings


def list_gpus() -> list[Gpu]:
    """What nvidia-smi sees; it may take a second."""
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


def survey() -> list[Finding]:
    """The versions, the hardware, and what is wrong with them."""
    found, seen = collect_facts(), list_gpus()
    findings = [Finding(OK, name, version) for name, version in found.items()]
    findings += [Finding(OK, "GPU", f"{gpu.name}, driver {gpu.driver}") for gpu in seen]
    bad = find_known_bad(found)
    for gpu in seen:
        if re.fullmatch(r"\d+\.\d+", gpu.capability):
            more = find_known_bad(found | {DRIVER: gpu.driver, CAPABILITY: gpu.capability})
            bad += [finding for finding in more if finding not in bad]
    return findings + bad


def _missing_or_twice(found: dict[str, str]) -> list[Finding]:
    builds = [name for name in TENSORFLOW_BUILDS if name in found]
    missing = [
        *(["tensorflow"] if not builds else []),
        *(["keras"] if "keras" not in found else []),
    ]
    if missing:
        remedy = 'pip install -e ".[cpu]", or [gpu], [tpu]'
        text = f"{' and '.join(missing)} not installed in {sys.prefix}"
        return [Finding(PROBLEM, "versions", text, remedy)]
    if len(builds) == 1:
        return []
    # Seen in rlworkgroup/garage#251, apple/turicreate#3405: the later one wrote over the files of
    # the earlier, and to remove one leaves neither whole.
    those = " and ".join(f"{name} {found[name]}" for name in builds)
    same = len({found[name] for name in builds}) == 1
    return [
        Finding(
            WARNING if same else PROBLEM,
            "versions",
            f"{those} are installed over one another",
            f'pip uninstall {" ".join(builds)}, then pip install -e ".[cpu]", or [gpu], [tpu]',
        )
    ]


def _matching(alternatives: str, bad: str, found: dict[str, str]) -> str | None:
    return next(
        (
            name
            for name in alternatives.split("|")
            if name in found and SpecifierSet(bad).contains(found[name], prereleases=True)
        ),
        None,
    )


def _nvidia_driver() -> str | None:
    if not os.path.exists(f"{_ROOT}dev/nvidiactl"):  # a container may see /proc without the device
        return None
    try:
        with open(f"{_ROOT}proc/driver/nvidia/version") as file:
            match = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", file.read())
    except OSError:
        return None
    return match[1] if match else None


def count_tpu_chips() -> int:
    """Chips on the PCI bus. Nothing is opened: a process that computes on them is not disturbed."""
    return len(_tpus())


def is_tpu_build() -> bool:
    """Whether TensorFlow is the build that knows TPUs. libtpu alone may have come with jax."""
    try:
        importlib.metadata.version("tensorflow-tpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def get_tpu_environment(computes_on_it: bool) -> dict[str, str]:
    """What libtpu and TensorFlow are to find in the environment when they are imported here.

    From v5 on TensorFlow reaches a TPU through PJRT only (keras.io's example "DistributedEmbedding
    using TPU SparseCore and TensorFlow"). Such an import takes the chips, and aborts where another
    process has them, so it is for the process that computes on them alone.
    """
    generations = _tpus()
    if not generations:
        # libtpu would ask the metadata server of a TPU VM, for minutes where there is none.
        return {"TPU_SKIP_MDS_QUERY": "1"}
    libtpu = importlib.util.find_spec("libtpu")
    if not computes_on_it or generations[0] in ("v3", "v4") or not (is_tpu_build() and libtpu):
        return {}
    return {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": str(pathlib.Path(libtpu.origin).parent / "libtpu.so"),
    }


def _tpus() -> list[str]:
    """The generation of each chip."""
    found = []
    for folder in glob.glob(f"{_ROOT}sys/bus/pci/devices/*/"):
        try:
            ids = tuple(pathlib.Path(folder, name).read_text().strip() for name in _PCI_IDS)
        except OSError:
            continue
        if ids[0] == _GOOGLE and ids[1] in _TPU_DEVICES:
            found.append(_TPU_DEVICES[ids[1]])
    return found
