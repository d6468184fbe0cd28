"""Combinations of installed versions and hardware that are known to fail.

This module does not import TensorFlow, because some of these combinations abort the process as soon
as it is imported.
"""

import dataclasses
import re
import sys

from packaging.specifiers import SpecifierSet

from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding
from t2i_tpu.installed import (
    CAPABILITY,
    DRIVER,
    TENSORFLOW_BUILDS,
    TPU,
    collect_facts,
    list_gpus,
)

_ANY_BUILD = "|".join(TENSORFLOW_BUILDS)


@dataclasses.dataclass(frozen=True)
class KnownBad:
    """Versions that do not work together.

    Attributes:
      versions: for each fact, a specifier of its bad versions. All facts must match. A key may list
        alternative facts, separated by |. An empty specifier matches any version.
      status: WARNING or PROBLEM.
      text: a description of the failure, which follows the names and versions in a message.
      remedy: instruction for the user.
      source: where the failure was reported.
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
        "our own test of 0.0.52; the same abort in pytorch/xla#3786, jax-ml/jax#7247",
    ),
    KnownBad(
        {"tensorflow|tensorflow-cpu": "", TPU: ""},
        WARNING,
        "is built without TPU support, but this machine has a TPU (2.20 is the newest release that supports it)",
        'pip uninstall tensorflow tensorflow-cpu, then pip install -e ".[tpu]"',
        "tensorflow/tensorflow#96203",
    ),
    KnownBad(
        {"tensorflow-cpu": "", DRIVER: ""},
        WARNING,
        "computes on the CPU only, but this machine has an NVIDIA GPU",
        'pip uninstall tensorflow-cpu, then pip install -e ".[gpu]" (make: EXTRA=gpu)',
        "autorope/donkeycar#346, keras-team/keras-tuner#177",
    ),
    KnownBad(
        {"tensorflow": ">=2.20", DRIVER: "<525.60.13"},
        WARNING,
        "needs an NVIDIA driver of version 525.60.13 or newer to see the GPU",
        "update the driver",
        "tensorflow.org/install/pip",
    ),
    KnownBad(
        {"nvidia-cudnn-cu12": ">=9.11", CAPABILITY: "<7.5"},
        PROBLEM,
        "no longer supports GPUs older than Turing (V100, P100)",
        'pip install "nvidia-cudnn-cu12<9.11"',
        "immich-app/immich#23110, Quansight/open-gpu-server#69, SciML/SciMLBenchmarks.jl#1736",
    ),
    KnownBad(
        {"tensorflow": "<2.22", CAPABILITY: ">=12"},
        WARNING,
        "has no kernels for GPUs like the RTX 5000 series, and its XLA cannot compile any "
        "(CUDA_ERROR_INVALID_PTX)",
        "use NVIDIA's TensorFlow container or another GPU; "
        "with 2.21, --config.train.jit_compile=off may work",
        "tensorflow/tensorflow#89272, #99592, #111958",
    ),
    KnownBad(
        {"tensorflow-metal": "", _ANY_BUILD: ">=2.18"},
        PROBLEM,
        'breaks the import of TensorFlow 2.18 and newer ("Symbol not found")',
        "pip uninstall tensorflow-metal",
        "tensorflow/tensorflow#84167, #81987",
    ),
    KnownBad(
        {_ANY_BUILD: "<2.20"},
        PROBLEM,
        "is older than this package requires",
        'pip install -e ".[cpu]", ".[gpu]" or ".[tpu]"',
        "setup.py",
    ),
    KnownBad(
        {_ANY_BUILD: ">=2.22.dev0"},
        WARNING,
        "is newer than this package was tested with",
        'pip install -e ".[cpu]" or ".[gpu]" installs a version that was tested',
        "setup.py",
    ),
    KnownBad(
        {"keras": "<3.12"},
        PROBLEM,
        "is older than this package requires",
        'pip install "keras>=3.12,<4"',
        "setup.py",
    ),
)


def find_known_bad(facts: dict[str, str]) -> list[Finding]:
    """Return the problems with the facts of `collect_facts`.

    The problems are packages that are missing, installed twice or known to fail together.
    """
    findings = _check_packages(facts)
    for bad in KNOWN_BAD:
        names = [_find_match(names, versions, facts) for names, versions in bad.versions.items()]
        if all(names):
            culprits = " with ".join(f"{name} {facts[name]}" for name in names)
            findings.append(Finding(bad.status, "versions", f"{culprits} {bad.text}", bad.remedy))
    return findings


def survey() -> list[Finding]:
    """Return the installed versions, the hardware, and the problems with them."""
    facts, gpus = collect_facts(), list_gpus()
    findings = [Finding(OK, name, version) for name, version in facts.items()]
    findings += [Finding(OK, "GPU", f"{gpu.name}, driver {gpu.driver}") for gpu in gpus]
    bad = find_known_bad(facts)
    for gpu in gpus:
        if re.fullmatch(r"\d+\.\d+", gpu.capability):
            with_gpu = find_known_bad(facts | {DRIVER: gpu.driver, CAPABILITY: gpu.capability})
            bad += [finding for finding in with_gpu if finding not in bad]
    return findings + bad


def _check_packages(facts: dict[str, str]) -> list[Finding]:
    """Return a finding if TensorFlow or Keras is missing, or TensorFlow is installed twice."""
    builds = [name for name in TENSORFLOW_BUILDS if name in facts]
    missing = []
    if not builds:
        missing.append("tensorflow")
    if "keras" not in facts:
        missing.append("keras")
    if missing:
        remedy = 'pip install -e ".[cpu]", ".[gpu]" or ".[tpu]"'
        text = f"{' and '.join(missing)} not installed in {sys.prefix}"
        return [Finding(PROBLEM, "versions", text, remedy)]
    if len(builds) == 1:
        return []
    # The one installed later overwrites files of the other, and uninstalling one damages both
    # (rlworkgroup/garage#251, apple/turicreate#3405).
    names = " and ".join(f"{name} {facts[name]}" for name in builds)
    have_same_version = len({facts[name] for name in builds}) == 1
    return [
        Finding(
            WARNING if have_same_version else PROBLEM,
            "versions",
            f"{names} overwrite each other's files",
            f'pip uninstall {" ".join(builds)}, then pip install -e ".[cpu]", ".[gpu]" or ".[tpu]"',
        )
    ]


def _find_match(names: str, versions: str, facts: dict[str, str]) -> str | None:
    """Return the first of the names, separated by |, whose version matches, or None."""
    for name in names.split("|"):
        if name in facts and SpecifierSet(versions).contains(facts[name], prereleases=True):
            return name
    return None
