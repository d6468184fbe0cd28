"""What is installed, against what is known to be bad: by real dist-info folders on the path."""

import os
import subprocess
import sys

import pytest

from t2i_tpu import installed
from t2i_tpu.findings import OK, PROBLEM, WARNING
from tests.launch.launcher import ROOT

GOOD = {
    "cpu": {"tensorflow-cpu": "2.21.0", "keras": "3.12.0", "libtpu": "0.0.52"},  # beside jax
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
}


FAULTS = [
    ("tpu", {"libtpu": "0.0.19"}, PROBLEM, ["libtpu 0.0.19", "abort", "libtpu==0.0.18"]),
    ("cpu", {installed.TPU: "4"}, WARNING, ["tensorflow-cpu 2.21.0", "TPU", "[tpu]"]),
    ("gpu", {installed.TPU: "4"}, WARNING, ["tensorflow 2.21.0", "TPU", "[tpu]"]),
    ("cpu", {installed.DRIVER: "550.54"}, WARNING, ["CPU only", "[gpu]"]),
    ("gpu", {installed.DRIVER: "470.82.01"}, WARNING, ["470.82.01", "525.60.13"]),
    ("gpu", {"nvidia-cudnn-cu12": "9.24.0.43"}, PROBLEM, ["V100", "<9.11"]),
    ("newer gpu", {installed.CAPABILITY: "12.0"}, WARNING, ["capability 12.0", "RTX 5000"]),
    ("cpu", {"tensorflow-metal": "1.2.0"}, PROBLEM, ["pip uninstall tensorflow-metal"]),
    ("cpu", {"tensorflow-cpu": "2.19.1"}, PROBLEM, ["tensorflow-cpu 2.19.1", "older"]),
    ("cpu", {"tensorflow-cpu": "2.22.0rc0"}, WARNING, ["tensorflow-cpu 2.22.0rc0", "newer"]),
    ("cpu", {"keras": "3.11.3"}, PROBLEM, ["keras 3.11.3", "keras>=3.12"]),
    ("cpu", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.18"}, PROBLEM, ["over one another"]),
    ("cpu", {"tensorflow": "2.21.0"}, WARNING, ["pip uninstall tensorflow tensorflow-cpu"]),
]


@pytest.fixture
def site(tmp_path):
    """`site(versions)`: a folder that says these distributions are installed, as pip would."""

    def site(versions):
        for name, version in versions.items():
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (folder / "METADATA").write_text(text)
        return tmp_path

    return site


@pytest.mark.parametrize("kind", GOOD)
def test_what_works_is_not_blamed(kind):
    assert installed.find_known_bad(GOOD[kind]) == []


@pytest.mark.parametrize(("kind", "change", "status", "words"), FAULTS)
def test_each_known_fault(kind, change, status, words):
    (finding,) = installed.find_known_bad(GOOD[kind] | change)
    assert finding.status == status and finding.remedy
    for word in words:
        assert word in str(finding)


def test_what_is_missing():
    (finding,) = installed.find_known_bad({"python": "3.12.1", "keras": "3.15.1"})
    assert finding.status == PROBLEM and "tensorflow not installed" in finding.text
    (finding,) = installed.find_known_bad({"tensorflow": "2.21.0"})
    assert finding.status == PROBLEM and "keras not installed" in finding.text


def test_no_row_is_without_its_fault():
    texts = [
        finding.text
        for kind, change, *_ in FAULTS
        for finding in installed.find_known_bad(GOOD[kind] | change)
    ]
    for row in installed.KNOWN_BAD:
        assert row.source and any(row.text in text for text in texts), row


def test_versions_are_read_where_python_would_import_them_from(site, monkeypatch):
    monkeypatch.syspath_prepend(site({"keras": "3.3.1", "tensorflow-tpu": "2.20.0"}))
    found = installed.collect_facts()
    assert found["keras"] == "3.3.1" and found["tensorflow-tpu"] == "2.20.0"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_script_stops_before_it_imports_tensorflow(site, tmp_path):
    """libtpu 0.0.52 beside a TensorFlow that would abort: the line comes and no abort."""
    folder = site({"tensorflow-tpu": "2.20.0", "tensorflow-cpu": "2.21.0", "libtpu": "0.0.52"})
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text("import os\nos.abort()\n")
    (tmp_path / "plain.py").write_text(
        "from t2i_tpu.config import Config\n\n\ndef get_config():\n    return Config()\n"
    )
    result = subprocess.run(
        [sys.executable, "launch/train.py", f"--config={folder}/plain.py", f"--workdir={folder}/w"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stdout == ""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("train.py: error: versions: ")]
    assert len(errors) == 1 and len(lines) == 2  # two builds and a libtpu: one is the error
    assert "libtpu 0.0.52" in result.stderr and "over one another" in result.stderr
    assert not (folder / "w").exists()


def test_gpus_are_told_by_nvidia_smi(site, tmp_path, monkeypatch):
    """A program of that name that answers as the real one does on a V100 and on a Jetson."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'echo "$@" | grep -q compute_cap || exit 9\n'
        "echo 'Tesla V100-SXM2-16GB, 550.54.15, 7.0, 16384'\n"
        "echo 'Orin (nvgpu), 540.4.0, [N/A], [N/A]'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.syspath_prepend(site({"nvidia-cudnn-cu12": "9.24.0.43"}))
    assert installed.list_gpus() == [
        installed.Gpu("Tesla V100-SXM2-16GB", "550.54.15", "7.0", 16 << 30),
        installed.Gpu("Orin (nvgpu)", "540.4.0", "[N/A]", None),
    ]
    findings = installed.survey()
    assert [finding.status for finding in findings if "V100-SXM2" in finding.text] == [OK]
    assert any(f.status == PROBLEM and "nvidia-cudnn-cu12<9.11" in f.remedy for f in findings)


def test_no_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed.list_gpus() == []


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(path, text)` plants one of the kernel's files about the hardware."""
    monkeypatch.setattr(installed, "_ROOT", f"{tmp_path}/")

    def machine(path, text=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return machine


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build",
    ],
)
def test_the_drivers_version(machine, text):
    machine("proc/driver/nvidia/version", text + "\nGCC version:  gcc version 12.2.0\n")
    assert installed.DRIVER not in installed.collect_facts()
    machine("dev/nvidiactl")
    assert installed.collect_facts()[installed.DRIVER] == "550.54.15"


@pytest.fixture
def tpu_build(site, monkeypatch):
    """TensorFlow's TPU build and a libtpu, whose path it returns."""
    folder = site({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.18"})
    (folder / "libtpu").mkdir()
    (folder / "libtpu" / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "libtpu", raising=False)  # the real one's
    return str(folder / "libtpu" / "libtpu.so")


def chip(machine, device):
    machine("sys/bus/pci/devices/0000:00:00.0/vendor", "0x1ae0\n")
    machine("sys/bus/pci/devices/0000:00:00.0/device", device + "\n")


def test_what_is_told_where_there_is_no_tpu(machine, tpu_build):
    assert installed.get_tpu_environment(True) == {"TPU_SKIP_MDS_QUERY": "1"}
    chip(machine, "0x0042")  # Google's network card
    assert installed.get_tpu_environment(True) == {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.mark.parametrize("device", ["0x0027", "0x005e", "0x0062", "0x0063", "0x006f"])
def test_what_is_told_of_a_tpu(machine, tpu_build, device):
    """From v5 on PJRT, and that only to a process that computes on it."""
    chip(machine, device)
    through_pjrt = {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": tpu_build,
    }
    newer = device not in ("0x0027", "0x005e")
    assert installed.get_tpu_environment(True) == (through_pjrt if newer else {})
    assert installed.get_tpu_environment(False) == {}


def test_a_build_without_tpus_is_told_nothing(machine, site, monkeypatch):
    """A libtpu that came with jax would be loaded into it."""
    chip(machine, "0x0063")
    folder = site({"libtpu": "0.0.52"})
    (folder / "libtpu").mkdir()
    (folder / "libtpu" / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(installed, "is_tpu_build", lambda: False)
    assert installed.get_tpu_environment(True) == {}


@pytest.mark.parametrize(
    ("words", "given", "is_told"),
    [
        (["train.py", "--workdir=w"], {}, True),  # --strategy=auto
        (["train.py", "--workdir=w", "--strategy=tpu"], {"TPU_NAME": "local"}, True),
        (["train.py", "--workdir=w", "--strategy=cpu"], {}, False),
        (["train.py", "--workdir=w", "--strategy=tpu"], {"TPU_NAME": "grpc://1.2.3.4:8470"}, False),
        (["preflight.py", "--tpu=v3-8"], {}, False),
        (["tpu_worker.py"], {}, True),
    ],
)
def test_scripts_tell_tensorflow_of_a_v5e(machine, tpu_build, tmp_path, words, given, is_told):
    """By what a package of TensorFlow's name finds in the environment on its import."""
    chip(machine, "0x0063")
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\nprint('told', os.environ.get('TF_PLUGGABLE_DEVICE_LIBRARY_PATH'))\nos._exit(3)\n"
    )
    (tmp_path / "plain.py").write_text(
        "from t2i_tpu.config import Config\n\n\ndef get_config():\n    return Config()\n"
    )
    planted = (
        "import runpy, sys; from t2i_tpu import installed; "
        f"installed._ROOT = '{tmp_path}/'; installed.TENSORFLOW_BUILDS = ('tensorflow-tpu',); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script, *more = words
    if script != "tpu_worker.py":
        more.append(f"--config={tmp_path}/plain.py")
    result = subprocess.run(
        [sys.executable, "-u", "-c", planted, f"launch/{script}", *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"} | given,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3, result.stderr
    assert result.stdout == f"told {tpu_build if is_told else None}\n"


def test_tpus_are_counted_on_the_bus(machine):
    ids = [("0x1ae0", "0x0063"), ("0x1ae0", "0x0063"), ("0x1ae0", "0x0042"), ("0x8086", "0x0063")]
    assert installed.TPU not in installed.collect_facts()
    for number, (vendor, device) in enumerate(ids):  # the third is Google's network card
        machine(f"sys/bus/pci/devices/0000:00:0{number}.0/vendor", vendor + "\n")
        machine(f"sys/bus/pci/devices/0000:00:0{number}.0/device", device + "\n")
    assert installed.collect_facts()[installed.TPU] == "2"
