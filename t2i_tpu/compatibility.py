"""Combinations of installed versions and hardware that are known to fail.

This module imports neither TensorFlow nor JAX, because some of these combinations abort the process
as soon as one of them is imported.
"""

import dataclasses
import re
import sys

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding
from t2i_tpu.installed import (
    CAPABILITY,
    DRIVER,
    JAX_GPU_BUILDS,
    TENSORFLOW_BUILDS,
    TPU,
    collect_facts,
    list_gpus,
)

_ANY_BUILD = "|".join(TENSORFLOW_BUILDS)
_OTHER_BUILDS = "|".join(name for name in TENSORFLOW_BUILDS if name != "tensorflow-tpu")
_JAX = "jax>=0.6.2,<0.11"  # as in setup.py
_INSTALL_TENSORFLOW = 'pip install -e ".[cpu]", ".[gpu]" or ".[tpu]"'
_INSTALL_JAX = 'pip install -e ".[jax-gpu]" or ".[jax-tpu]"'
_OR_JAX = 'or, for JAX, pip uninstall tensorflow-tpu, then pip install -e ".[jax-tpu]"'


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
      engine: the engine that fails, or "" for both.
    """

    versions: dict[str, str]
    status: str
    text: str
    remedy: str
    source: str
    engine: str = ""


KNOWN_BAD = (
    KnownBad(
        {"libtpu": ">0.0.18", "tensorflow-tpu": "==2.20.*"},
        PROBLEM,
        'makes TensorFlow abort when it is imported ("ConfigureDistributedTpuOp_DoWork not available")',
        f'pip install "libtpu==0.0.18"; {_OR_JAX}',
        "our own test of 0.0.52; the same abort in pytorch/xla#3786, jax-ml/jax#7247",
    ),
    KnownBad(
        {"libtpu": ">0.0.27", "tensorflow-tpu": "==2.19.*"},
        PROBLEM,
        'makes TensorFlow abort when it is imported ("... not available in this library")',
        f'pip install "libtpu==0.0.10"; {_OR_JAX}',
        "our own tests: 0.0.8 to 0.0.27 can be imported; 0.0.33, 0.0.43.2, 0.0.47 and 0.0.52 abort",
    ),
    KnownBad(
        {"tensorflow|tensorflow-cpu": "", TPU: ""},
        WARNING,
        "is built without TPU support, but this machine has a TPU (2.20 is the newest release that supports it)",
        'pip uninstall tensorflow tensorflow-cpu, then pip install -e ".[tpu]"; '
        'or use --engine=jax after pip install -e ".[jax-tpu]"',
        "tensorflow/tensorflow#96203",
        engine="tensorflow",
    ),
    KnownBad(
        {"tensorflow-tpu": "", TPU: ""},
        PROBLEM,
        "cannot be used by --engine=jax: TensorFlow would take the TPU from JAX",
        'pip uninstall tensorflow-tpu, then pip install -e ".[jax-tpu]"; or use --engine=tensorflow',
        "jax-ml/jax#13260, googlecolab/colabtools#4567",
        engine="jax",
    ),
    KnownBad(
        {"tensorflow-cpu": "", DRIVER: ""},
        WARNING,
        "computes on the CPU only, but this machine has an NVIDIA GPU",
        'pip uninstall tensorflow-cpu, then pip install -e ".[gpu]" (make: EXTRA=gpu); '
        'or use --engine=jax after pip install -e ".[jax-gpu]"',
        "autorope/donkeycar#346, keras-team/keras-tuner#177",
        engine="tensorflow",
    ),
    KnownBad(
        {"tensorflow": ">=2.20", DRIVER: "<525.60.13"},
        WARNING,
        "needs an NVIDIA driver of version 525.60.13 or newer to see the GPU",
        "update the driver",
        "tensorflow.org/install/pip",
        engine="tensorflow",
    ),
    KnownBad(
        {"jax-cuda12-plugin": "", DRIVER: "<525.60.13"},
        WARNING,
        "needs an NVIDIA driver of version 525.60.13 or newer to see the GPU",
        "update the driver",
        "jax-ml/jax, docs/installation.md",
        engine="jax",
    ),
    KnownBad(
        {"jax-cuda13-plugin": "", DRIVER: "<580"},
        WARNING,
        "needs an NVIDIA driver of version 580 or newer to see the GPU",
        "update the driver",
        "jax-ml/jax, docs/installation.md",
        engine="jax",
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
        engine="tensorflow",
    ),
    KnownBad(
        {"tensorflow-metal": "", _ANY_BUILD: ">=2.18"},
        PROBLEM,
        'breaks the import of TensorFlow 2.18 and newer ("Symbol not found")',
        "pip uninstall tensorflow-metal",
        "tensorflow/tensorflow#84167, #81987",
    ),
    KnownBad(
        {_OTHER_BUILDS: "<2.20"},
        PROBLEM,
        "is older than this package requires",
        _INSTALL_TENSORFLOW,
        "setup.py",
    ),
    KnownBad(
        {"tensorflow-tpu": "<2.19.1"},
        PROBLEM,
        "is older than this package requires (2.19.1 or 2.20.0)",
        'pip install -e ".[tpu]"',
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
    KnownBad(
        {"jax": "<0.6.2"},
        PROBLEM,
        "is older than this package requires",
        _INSTALL_JAX,
        "setup.py",
        engine="jax",
    ),
    KnownBad(
        {"jax": ">=0.11.dev0"},
        WARNING,
        "is newer than this package was tested with",
        f"{_INSTALL_JAX} installs a version that was tested",
        "setup.py",
        engine="jax",
    ),
)


def find_known_bad(facts: dict[str, str], engine: str = "tensorflow") -> list[Finding]:
    """Return the problems with the facts of `collect_facts` if the engine is "tensorflow" or "jax".

    The problems are packages that are missing, installed twice or known to fail together.
    """
    findings = _check_tensorflow(facts, engine)
    if engine == "jax":
        findings += _check_jax(facts)
    for bad in KNOWN_BAD:
        names = [_find_match(names, versions, facts) for names, versions in bad.versions.items()]
        if all(names) and bad.engine in ("", engine):
            culprits = " with ".join(f"{name} {facts[name]}" for name in names)
            findings.append(Finding(bad.status, "versions", f"{culprits} {bad.text}", bad.remedy))
    return findings


def survey(engine: str = "tensorflow") -> list[Finding]:
    """Return the installed versions, the hardware, and the problems with them for an engine."""
    facts, gpus = collect_facts(), list_gpus()
    findings = [Finding(OK, name, version) for name, version in facts.items()]
    findings += [Finding(OK, "GPU", f"{gpu.name}, driver {gpu.driver}") for gpu in gpus]
    if engine == "jax" and gpus and "tensorflow" in facts:  # a build that could use them
        text = "used by JAX and hidden from TensorFlow, which reads the data"
        findings.append(Finding(OK, "GPU", text))
    bad = find_known_bad(facts, engine)
    for gpu in gpus:
        if re.fullmatch(r"\d+\.\d+", gpu.capability):
            facts |= {DRIVER: gpu.driver, CAPABILITY: gpu.capability}
            bad += [finding for finding in find_known_bad(facts, engine) if finding not in bad]
    return findings + bad


def _check_tensorflow(facts: dict[str, str], engine: str) -> list[Finding]:
    """Return a finding if TensorFlow or Keras is missing, or TensorFlow is installed twice."""
    builds = [name for name in TENSORFLOW_BUILDS if name in facts]
    missing = []
    if not builds:
        missing.append("tensorflow")
    if "keras" not in facts:
        missing.append("keras")
    if missing:
        # The JAX engine reads the data with TensorFlow.
        text = f"{' and '.join(missing)} not installed in {sys.prefix}"
        return [Finding(PROBLEM, "versions", text, _suggest_install(facts, engine))]
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
            f"pip uninstall {' '.join(builds)}, then {_suggest_install(facts, engine)}",
        )
    ]


def _check_jax(facts: dict[str, str]) -> list[Finding]:
    """Return a finding if JAX is missing, inconsistent, or cannot use this machine's accelerator."""
    install = _suggest_install(facts, "jax")
    missing = [name for name in ("jax", "jaxlib") if name not in facts]
    if missing:
        text = f"--engine=jax: {' and '.join(missing)} not installed in {sys.prefix}"
        return [Finding(PROBLEM, "versions", text, f"{install}, or use --engine=tensorflow")]

    # jax/_src/lib/__init__.py accepts a jaxlib that is older by a patch, but not a newer one.
    jax, jaxlib = Version(facts["jax"]), Version(facts["jaxlib"])
    if jaxlib > jax or jaxlib.release[:2] != jax.release[:2]:
        text = f"jax {jax} and jaxlib {jaxlib} are of different versions, so JAX cannot be imported"
        return [Finding(PROBLEM, "versions", text, install)]

    # jaxlib/plugin_support.py ignores a plugin of another version.
    plugins = [name for name in JAX_GPU_BUILDS if name in facts]
    if DRIVER in facts and plugins and all(Version(facts[name]) != jaxlib for name in plugins):
        text = f"{plugins[0]} {facts[plugins[0]]} is not used, because jaxlib has version {jaxlib}"
        return [Finding(WARNING, "versions", text, install)]
    if DRIVER in facts and not plugins:
        text = f"jax {jax} computes on the CPU only, but this machine has an NVIDIA GPU"
        return [Finding(WARNING, "versions", text, f"{install} (make: EXTRA=jax-gpu)")]
    if TPU in facts and "libtpu" not in facts:
        text = f"jax {jax} has no libtpu, so it computes on the CPU, but this machine has a TPU"
        return [Finding(WARNING, "versions", text, f"{install} (make: EXTRA=jax-tpu)")]
    return []


def _suggest_install(facts: dict[str, str], engine: str) -> str:
    """Return the command that installs the packages of an engine."""
    if engine == "tensorflow":
        return _INSTALL_TENSORFLOW
    if TPU in facts:
        return 'pip install -e ".[jax-tpu]"'
    if DRIVER in facts:
        return 'pip install -e ".[jax-gpu]"'
    return f'pip install -e ".[cpu]" "{_JAX}"'


def _find_match(names: str, versions: str, facts: dict[str, str]) -> str | None:
    """Return the first of the names, separated by |, whose version matches, or None."""
    for name in names.split("|"):
        if name in facts and SpecifierSet(versions).contains(facts[name], prereleases=True):
            return name
    return None
