"""Packages and hardware are detected, from real dist-info folders and fake files of the kernel."""

import os
import subprocess
import sys

import pytest

from t2i_tpu import installed
from tests import distributions, tiny
from tests.launch.launcher import ROOT


def test_versions_are_read_from_the_import_path(tmp_path, monkeypatch):
    distributions.install(tmp_path, {"keras": "3.3.1", "tensorflow-tpu": "2.20.0"})
    monkeypatch.syspath_prepend(tmp_path)
    facts = installed.collect_facts()
    assert facts["keras"] == "3.3.1" and facts["tensorflow-tpu"] == "2.20.0"
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_no_gpus_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed.list_gpus() == []


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """`plant(path, text)` writes one of the kernel's files about the hardware."""
    monkeypatch.setattr(installed, "_ROOT", f"{tmp_path}/")

    def write(path, text=""):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build",
    ],
)
def test_driver_version_is_read_if_there_is_a_gpu(plant, text):
    plant("proc/driver/nvidia/version", text + "\nGCC version:  gcc version 12.2.0\n")
    assert installed.DRIVER not in installed.collect_facts()
    plant("dev/nvidiactl")
    assert installed.collect_facts()[installed.DRIVER] == "550.54.15"


@pytest.fixture
def libtpu_path(tmp_path, monkeypatch):
    """The path of a fake libtpu's library, installed together with TensorFlow's TPU build."""
    distributions.install(tmp_path, {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.18"})
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "libtpu", raising=False)  # the real one
    return str(tmp_path / "libtpu" / "libtpu.so")


def plant_pci_device(plant, device, vendor="0x1ae0", number=0):
    plant(f"sys/bus/pci/devices/0000:00:0{number}.0/vendor", vendor + "\n")
    plant(f"sys/bus/pci/devices/0000:00:0{number}.0/device", device + "\n")


def test_environment_without_a_tpu_skips_the_metadata_server(plant, libtpu_path):
    assert installed.get_tpu_environment(True) == {"TPU_SKIP_MDS_QUERY": "1"}
    plant_pci_device(plant, "0x0042")  # Google's network card
    assert installed.get_tpu_environment(True) == {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.mark.parametrize("device", ["0x0027", "0x005e", "0x0062", "0x0063", "0x006f"])
def test_environment_selects_pjrt_from_v5_on(plant, libtpu_path, device):
    """Only a process that computes on the TPU gets these variables."""
    plant_pci_device(plant, device)
    pjrt = {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": libtpu_path,
    }
    is_older = device in ("0x0027", "0x005e")
    assert installed.get_tpu_environment(True) == ({} if is_older else pjrt)
    assert installed.get_tpu_environment(False) == {}


def test_environment_of_a_build_without_tpus_is_empty(plant, tmp_path, monkeypatch):
    """Otherwise, TensorFlow would load a libtpu that was installed for jax."""
    plant_pci_device(plant, "0x0063")
    distributions.install(tmp_path, {"libtpu": "0.0.52"})
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installed, "is_tpu_build", lambda: False)
    assert installed.get_tpu_environment(True) == {}


V3, V5E, V6E, V7 = "0x0027", "0x0063", "0x006f", "0x0076"
POD = {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3"}
REMOTE = {"TPU_NAME": "grpc://10.0.0.2:8470,grpc://10.0.0.3:8470"}


@pytest.mark.parametrize(
    ("device", "packages", "strategy", "environment", "engine"),
    [
        (None, "tensorflow-cpu jax", "auto", {}, "tensorflow"),
        (None, "tensorflow-cpu jax libtpu", "tpu", {}, "tensorflow"),
        (V5E, "tensorflow-cpu jax libtpu", "auto", {}, "jax"),
        (V5E, "tensorflow-cpu jax libtpu", "tpu", {"TPU_NAME": "local"}, "jax"),
        (V3, "tensorflow-cpu jax libtpu", "auto", {}, "jax"),
        (V5E, "tensorflow-cpu jax libtpu", "cpu", {}, "tensorflow"),
        (V5E, "tensorflow-cpu jax libtpu", "gpu", {}, "tensorflow"),
        (V5E, "tensorflow-cpu jax libtpu", "multiworker", {}, "jax"),
        (V5E, "tensorflow-cpu jax libtpu", "tpu", REMOTE, "tensorflow"),
        (V5E, "tensorflow-cpu", "auto", {}, "tensorflow"),
        (V5E, "tensorflow-tpu jax", "auto", {}, "tensorflow"),
        (V5E, "tensorflow-tpu jax", "auto", POD, "tensorflow"),
        (V6E, "tensorflow-tpu jax", "auto", {}, "tensorflow"),
        (V6E, "tensorflow-tpu jax", "auto", {"TPU_WORKER_HOSTNAMES": "localhost"}, "tensorflow"),
        (V6E, "tensorflow-tpu jax", "auto", POD, "jax"),
        (V6E, "tensorflow-tpu", "tpu", POD, "jax"),
        (V7, "tensorflow-tpu", "auto", {}, "jax"),
    ],
)
def test_auto_is_jax_on_a_tpu_that_only_jax_can_drive(
    plant, monkeypatch, device, packages, strategy, environment, engine
):
    if device:
        plant_pci_device(plant, device)
    monkeypatch.setattr(installed, "_is_installed", packages.split().__contains__)
    for name in ("TPU_NAME", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert installed.choose_engine("auto", strategy) == engine
    for name in ("tensorflow", "jax"):
        assert installed.choose_engine(name, strategy) == name


# Runs a script with the planted hardware files and only the planted TensorFlow build.
RUN_SCRIPT = """
import runpy, sys
from t2i_tpu import installed
installed._ROOT = sys.argv[1] + "/"
installed.TENSORFLOW_BUILDS = ("tensorflow-tpu",)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Stands in for TensorFlow and prints what it finds in the environment when it is imported.
TENSORFLOW = """
import os
print("library:", os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH"))
os._exit(3)
"""


@pytest.mark.parametrize(
    ("script", "flags", "environment", "gets_library"),
    [
        ("train.py", ["--workdir=w"], {}, True),  # --strategy=auto
        ("train.py", ["--workdir=w", "--strategy=tpu"], {"TPU_NAME": "local"}, True),
        ("train.py", ["--workdir=w", "--strategy=cpu"], {}, False),
        ("train.py", ["--workdir=w", "--strategy=tpu"], {"TPU_NAME": "grpc://1.2.3.4:8470"}, False),
        ("preflight.py", ["--tpu=v3-8"], {}, False),
        ("tpu_worker.py", [], {}, True),
    ],
)
def test_scripts_that_compute_on_a_v5e_set_its_environment(
    plant, libtpu_path, tmp_path, script, flags, environment, gets_library
):
    plant_pci_device(plant, "0x0063")
    plant("tensorflow/__init__.py", TENSORFLOW)
    plant("plain.py", tiny.CONFIG_FILE)
    if script != "tpu_worker.py":
        flags = [*flags, f"--config={tmp_path}/plain.py"]
    command = [sys.executable, "-u", "-c", RUN_SCRIPT, str(tmp_path), f"launch/{script}", *flags]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3, result.stderr
    assert result.stdout == f"library: {libtpu_path if gets_library else None}\n"


def test_tpu_chips_on_the_pci_bus_are_counted(plant):
    assert installed.TPU not in installed.collect_facts()
    plant_pci_device(plant, "0x0063", number=0)
    plant_pci_device(plant, "0x0063", number=1)
    plant_pci_device(plant, "0x0042", number=2)  # Google's network card
    plant_pci_device(plant, "0x0063", vendor="0x8086", number=3)
    assert installed.collect_facts()[installed.TPU] == "2"
