"""Known-bad combinations of versions and hardware, and how a script reports them."""

import json
import os
import subprocess
import sys

import pytest

from t2i_tpu import compatibility, installed
from t2i_tpu.findings import OK, PROBLEM, WARNING
from tests import distributions, tiny
from tests.assertions import assert_mentions
from tests.launch.launcher import ROOT

# Good installations for the TensorFlow engine and, if the name starts with jax, for the JAX engine.
GOOD = {
    "cpu": {"tensorflow-cpu": "2.21.0", "keras": "3.12.0", "libtpu": "0.0.52"},  # as with jax
    "gpu": {
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "nvidia-cudnn-cu12": "9.10.2.21",
        installed.DRIVER: "550.54.15",
        installed.CAPABILITY: "7.0",
    },
    "newer gpu": {
        "tensorflow": "2.20.0",
        "keras": "3.15.1",
        "nvidia-cudnn-cu12": "9.24.0.43",
        installed.CAPABILITY: "9.0",
    },
    "tpu": {
        "tensorflow-tpu": "2.20.0",
        "keras": "3.12.0",
        "libtpu": "0.0.18",
        installed.TPU: "4",
    },
    "older tpu": {
        "tensorflow-tpu": "2.19.1",
        "keras": "3.12.0",
        "libtpu": "0.0.10",
        installed.TPU: "4",
    },
    "jax cpu": {"tensorflow": "2.21.0", "keras": "3.15.1", "jax": "0.10.2", "jaxlib": "0.10.1"},
    # TensorFlow's TPU build does no harm to JAX where there is no TPU, as in `make test EXTRA=tpu`.
    "jax next to tpu": {
        "tensorflow-tpu": "2.20.0",
        "keras": "3.12.0",
        "libtpu": "0.0.18",
        "jax": "0.6.2",
        "jaxlib": "0.6.2",
    },
    "jax gpu": {
        "tensorflow-cpu": "2.21.0",
        "keras": "3.15.1",
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "jax-cuda12-plugin": "0.10.2",
        "nvidia-cudnn-cu12": "9.10.2.21",
        installed.DRIVER: "550.54.15",
        installed.CAPABILITY: "7.0",
    },
    "jax tpu": {
        "tensorflow-cpu": "2.21.0",
        "keras": "3.15.1",
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "libtpu": "0.0.42.1",
        installed.TPU: "4",
    },
}
ABSENT = None  # a package that a fault removes

# A good installation, a change to it, and the status and words of the finding that results.
FAULTS = [
    ("tpu", {"libtpu": "0.0.19"}, PROBLEM, ["libtpu 0.0.19", "abort", "libtpu==0.0.18"]),
    ("older tpu", {"libtpu": "0.0.33"}, PROBLEM, ["libtpu 0.0.33", "abort", "libtpu==0.0.10"]),
    (
        "older tpu",
        {"tensorflow-tpu": "2.18.0"},
        PROBLEM,
        ["tensorflow-tpu 2.18.0", "2.19.1", "[tpu]"],
    ),
    ("cpu", {installed.TPU: "4"}, WARNING, ["tensorflow-cpu 2.21.0", "TPU", "[tpu]", "[jax-tpu]"]),
    ("gpu", {installed.TPU: "4"}, WARNING, ["tensorflow 2.21.0", "TPU", "[tpu]", "[jax-tpu]"]),
    ("cpu", {installed.DRIVER: "550.54"}, WARNING, ["CPU only", "[gpu]", "[jax-gpu]"]),
    ("gpu", {installed.DRIVER: "470.82.01"}, WARNING, ["470.82.01", "525.60.13"]),
    ("gpu", {"nvidia-cudnn-cu12": "9.24.0.43"}, PROBLEM, ["V100", "<9.11"]),
    ("newer gpu", {installed.CAPABILITY: "12.0"}, WARNING, ["capability 12.0", "RTX 5000"]),
    ("cpu", {"tensorflow-metal": "1.2.0"}, PROBLEM, ["pip uninstall tensorflow-metal"]),
    ("cpu", {"tensorflow-cpu": "2.19.1"}, PROBLEM, ["tensorflow-cpu 2.19.1", "older"]),
    ("cpu", {"tensorflow-cpu": "2.22.0rc0"}, WARNING, ["tensorflow-cpu 2.22.0rc0", "newer"]),
    ("cpu", {"keras": "3.11.3"}, PROBLEM, ["keras 3.11.3", "keras>=3.12"]),
    ("cpu", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.18"}, PROBLEM, ["overwrite each other"]),
    ("cpu", {"tensorflow": "2.21.0"}, WARNING, ["pip uninstall tensorflow tensorflow-cpu"]),
    ("jax cpu", {"jax": ABSENT}, PROBLEM, ["--engine=jax", "jax not installed", "jax>=0.6.2"]),
    (
        "jax gpu",
        {"jax": ABSENT},
        PROBLEM,
        ["jax not installed", "[jax-gpu]", "--engine=tensorflow"],
    ),
    ("jax tpu", {"jaxlib": ABSENT}, PROBLEM, ["jaxlib not installed", "[jax-tpu]"]),
    ("jax tpu", {"tensorflow-cpu": ABSENT}, PROBLEM, ["tensorflow not installed", "[jax-tpu]"]),
    ("jax cpu", {"jax": "0.6.1", "jaxlib": "0.6.1"}, PROBLEM, ["jax 0.6.1", "older"]),
    ("jax cpu", {"jax": "0.11.0", "jaxlib": "0.11.0"}, WARNING, ["jax 0.11.0", "newer"]),
    ("jax cpu", {"jaxlib": "0.10.3"}, PROBLEM, ["jax 0.10.2", "jaxlib 0.10.3", "jax>=0.6.2"]),
    ("jax cpu", {"jaxlib": "0.9.2"}, PROBLEM, ["jaxlib 0.9.2", "jax>=0.6.2"]),
    ("jax gpu", {"jax-cuda12-plugin": "0.9.2"}, WARNING, ["plugin 0.9.2", "jaxlib", "[jax-gpu]"]),
    ("jax gpu", {"jax-cuda12-plugin": ABSENT}, WARNING, ["CPU only", "NVIDIA GPU", "[jax-gpu]"]),
    ("jax gpu", {installed.DRIVER: "470.82.01"}, WARNING, ["470.82.01", "525.60.13"]),
    (
        "jax gpu",
        {"jax-cuda12-plugin": ABSENT, "jax-cuda13-plugin": "0.10.2"},
        WARNING,
        ["550.54.15", "580"],
    ),
    ("jax gpu", {"nvidia-cudnn-cu12": "9.24.0.43"}, PROBLEM, ["V100", "<9.11"]),
    ("jax tpu", {"libtpu": ABSENT}, WARNING, ["no libtpu", "TPU", "[jax-tpu]"]),
    (
        "jax next to tpu",
        {installed.TPU: "4"},
        PROBLEM,
        ["take the TPU from JAX", "pip uninstall tensorflow-tpu", "[jax-tpu]"],
    ),
]


def find_known_bad(kind, change):
    """Return the findings about a good installation after a change to it."""
    facts = {name: version for name, version in (GOOD[kind] | change).items() if version != ABSENT}
    engine = "jax" if kind.startswith("jax") else "tensorflow"
    return compatibility.find_known_bad(facts, engine)


@pytest.mark.parametrize("kind", GOOD)
def test_good_installation_has_no_finding(kind):
    assert find_known_bad(kind, {}) == []


@pytest.mark.parametrize(("kind", "change", "status", "words"), FAULTS)
def test_known_fault_is_found(kind, change, status, words):
    (finding,) = find_known_bad(kind, change)
    assert finding.status == status and finding.remedy
    assert_mentions(str(finding), words)


def test_missing_packages_are_found():
    (finding,) = compatibility.find_known_bad({"python": "3.12.1", "keras": "3.15.1"})
    assert finding.status == PROBLEM and "tensorflow not installed" in finding.text
    (finding,) = compatibility.find_known_bad({"tensorflow": "2.21.0"})
    assert finding.status == PROBLEM and "keras not installed" in finding.text


def test_every_row_is_tested():
    texts = [
        finding.text for kind, change, *_ in FAULTS for finding in find_known_bad(kind, change)
    ]
    for row in compatibility.KNOWN_BAD:
        assert row.source and any(row.text in text for text in texts), row


def test_script_stops_before_importing_tensorflow(tmp_path):
    """With a libtpu that would abort TensorFlow, a script prints an error and does not abort."""
    distributions.install(
        tmp_path, {"tensorflow-tpu": "2.20.0", "tensorflow-cpu": "2.21.0", "libtpu": "0.0.52"}
    )
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os\nos.abort()\n")
    (tmp_path / "plain.py").write_text(tiny.CONFIG_FILE)
    workdir = tmp_path / "run"
    result = subprocess.run(
        [
            sys.executable,
            "launch/train.py",
            f"--config={tmp_path}/plain.py",
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stdout == ""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("train.py: error: versions: ")]
    assert len(errors) == 1 and len(lines) == 2  # one of the two problems is the error
    assert "libtpu 0.0.52" in result.stderr and "overwrite each other" in result.stderr
    assert not workdir.exists()


# Runs a script as if the packages of its first argument were installed.
RUN_SCRIPT = """
import json, runpy, sys
from t2i_tpu import compatibility, installed
facts = json.loads(sys.argv[1])
installed.collect_facts = compatibility.collect_facts = facts.copy
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("engine", "facts", "words"),
    [
        ("jax", {"tensorflow-cpu": "2.21.0", "keras": "3.15.1"}, ["jax and jaxlib not installed"]),
        ("jax", GOOD["jax next to tpu"] | {installed.TPU: "4"}, ["pip uninstall tensorflow-tpu"]),
        ("tensorflow", {"keras": "3.15.1"}, ["tensorflow not installed"]),
    ],
)
def test_script_checks_the_packages_of_its_engine(tmp_path, engine, facts, words):
    (tmp_path / "plain.py").write_text(tiny.CONFIG_FILE)
    flags = [f"--engine={engine}", f"--config={tmp_path}/plain.py", f"--workdir={tmp_path}/run"]
    result = subprocess.run(
        [sys.executable, "-c", RUN_SCRIPT, json.dumps(facts), "launch/train.py", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("train.py: error: versions: ")
    assert_mentions(line, words)


def test_survey_says_that_jax_owns_the_gpus(monkeypatch):
    gpu = installed.Gpu("NVIDIA H100", "550.54.15", "9.0", 80 << 30)
    facts = GOOD["jax gpu"] | {"tensorflow": "2.21.0", installed.DRIVER: gpu.driver}
    del facts["tensorflow-cpu"]
    monkeypatch.setattr(compatibility, "collect_facts", facts.copy)
    monkeypatch.setattr(compatibility, "list_gpus", lambda: [gpu])
    findings = compatibility.survey("jax")
    assert {finding.status for finding in findings} == {OK}
    assert any("used by JAX and hidden from TensorFlow" in finding.text for finding in findings)


def test_survey_checks_the_gpus_that_nvidia_smi_lists(tmp_path, monkeypatch):
    """A stand-in for nvidia-smi answers as the real one does on a V100 and on a Jetson."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'echo "$@" | grep -q compute_cap || exit 9\n'
        "echo 'Tesla V100-SXM2-16GB, 550.54.15, 7.0, 16384'\n"
        "echo 'Orin (nvgpu), 540.4.0, [N/A], [N/A]'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    distributions.install(tmp_path, {"nvidia-cudnn-cu12": "9.24.0.43"})
    monkeypatch.syspath_prepend(tmp_path)
    assert installed.list_gpus() == [
        installed.Gpu("Tesla V100-SXM2-16GB", "550.54.15", "7.0", 16 << 30),
        installed.Gpu("Orin (nvgpu)", "540.4.0", "[N/A]", None),
    ]
    findings = compatibility.survey()
    assert [finding.status for finding in findings if "V100-SXM2" in finding.text] == [OK]
    assert any(f.status == PROBLEM and "nvidia-cudnn-cu12<9.11" in f.remedy for f in findings)
