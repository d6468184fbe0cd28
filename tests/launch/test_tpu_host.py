"""launch/tpu_host.sh and `make train-tpu` detect a TPU, train on it, and control a pod."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.launch.tpu import Cloud, serve_metadata

TRAIN = ["make", "train-tpu", "CONFIG=configs/new one.py", "WORKDIR=gs://bucket/x"]
FLAGS = ["--strategy=tpu", "--config=configs/new one.py", "--workdir=gs://bucket/x"]


class Host(Cloud):
    """A host of a TPU: a checkout, and a Python whose pip and train.py only record their calls."""

    def start_command(self, command, **environment):
        """Start a command in the checkout and return its process."""
        path = f"{self.folder / 'vm_bin'}:{self.folder / 'bin'}"
        return subprocess.Popen(
            command,
            cwd=self.checkout,
            env=self.make_environment(PATH=path) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run_command(self, command, **environment):
        """Run a command in the checkout and return its exit code and output."""
        return wait_for_exit(self.start_command(command, **environment))

    def run_script(self, *arguments):
        """Run launch/tpu_host.sh and return the lines that it prints."""
        _, output = self.run_command(["launch/tpu_host.sh", *arguments])
        return output.splitlines()


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    host.clean_up()


def wait_for_exit(process):
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout + stderr


@pytest.mark.parametrize(
    ("device", "vendor"),
    [
        ("0x0042", "0x1ae0"),  # a network card of Google
        ("0x0027", "0x8086"),
    ],
)
def test_machine_without_a_tpu_is_rejected_and_nothing_installed(host, device, vendor):
    host.set_pci_device(device, vendor)
    code, output = host.run_command(TRAIN)
    assert code != 0
    (line,) = (line for line in output.splitlines() if not line.startswith("make: ***"))
    for words in ("no TPU", "docs/tpu.md", "make train "):
        assert words in line
    assert not (host.checkout / ".venv").exists()
    assert host.read_json_lines("installed") == []


@pytest.mark.parametrize(
    ("device", "variables", "extra", "engine"),
    [
        ("0x0027", [], "tpu", "tensorflow"),
        ("0x005e", [], "tpu", "tensorflow"),
        ("0x0062", [], "tpu", "tensorflow"),
        ("0x0063", [], "tpu", "tensorflow"),
        ("0x006f", [], "tpu", "tensorflow"),
        ("0x0076", [], "jax-tpu", "jax"),  # v7, which TensorFlow does not support
        ("0x0063", ["EXTRA=jax-tpu"], "jax-tpu", "jax"),
        ("0x0076", ["EXTRA=tpu"], "tpu", "tensorflow"),
    ],
)
def test_make_installs_the_packages_of_an_engine_and_trains(host, device, variables, extra, engine):
    host.set_pci_device(device)
    host.plan_trainings(0)
    code, output = host.run_command([*TRAIN, *variables, "ARGS=--seed=1"])
    assert code == 0, output
    installed = host.read_json_lines("installed")
    assert [words for words in installed if "-e" in words] == [
        ["install", "-qq", "-e", f".[{extra}]"]
    ]
    assert host.trainings == [[[f"--engine={engine}", *FLAGS, "--seed=1"], {}]]


def test_detection_can_be_overridden(host):
    host.set_pci_device("0x9999")  # a TPU of the future
    host.plan_trainings(0)
    code, _ = host.run_command([*TRAIN, "HAS=tpu"])
    assert code == 0
    assert len(host.trainings) == 1


def find_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def is_listening(address, port):
    with contextlib.suppress(OSError), socket.create_connection((address, int(port)), timeout=1):
        return True
    return False


def wait_for_worker(address, port):
    deadline = time.monotonic() + 30
    while not is_listening(address, port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


ADDRESSES = ["127.0.0.1", "127.0.0.2"]
ENDPOINTS = ",".join(f"unknown:unknown:{address}" for address in ADDRESSES)


def test_first_host_of_a_pod_trains_with_the_workers_of_all(host):
    port = find_free_port()
    host.plan_trainings(75)

    with contextlib.ExitStack() as stack:

        def start_host(number):
            attributes = {
                "agent-worker-number": str(number),
                "worker-network-endpoints": ENDPOINTS,
            }
            environment = {
                "GCE_METADATA_HOST": stack.enter_context(serve_metadata(**attributes)),
                "STAND_IN_IP": ADDRESSES[number],
                "TPU_TASK_PORT": port,
                "T2I_EXIT_CODE": str(host.folder / f"code{number}"),
            }
            return host.start_command(TRAIN, **environment)

        # The first host waits for the second.
        first = start_host(0)
        wait_for_worker(ADDRESSES[0], port)
        time.sleep(2)
        assert host.trainings == []

        # When the training ends, the worker of the first host stops.
        second = start_host(1)
        code, output = wait_for_exit(first)
        assert code == 2, output
        assert (host.folder / "code0").read_text() == "75\n"
        tpu = ",".join(f"grpc://{address}:{port}" for address in ADDRESSES)
        variables = {"TPU_NAME": tpu, "TPU_LOAD_LIBRARY": "0"}
        assert host.trainings == [[["--engine=tensorflow", *FLAGS], variables]]
        assert not is_listening(ADDRESSES[0], port)

        # The worker of the second host runs until it is stopped.
        assert is_listening(ADDRESSES[1], port)
        assert second.poll() is None
        os.killpg(second.pid, signal.SIGTERM)
        code, _ = wait_for_exit(second)
        assert code != 0


def test_every_host_of_a_pod_trains_with_jax(host):
    """TensorFlow cannot use a pod of v6e, so JAX is the default there."""
    host.set_pci_device("0x006f")
    attributes = {"agent-worker-number": "1", "worker-network-endpoints": ENDPOINTS}
    host.plan_trainings(75)
    code_file = host.folder / "code"
    with serve_metadata(**attributes) as address:
        code, _ = host.run_command(TRAIN, GCE_METADATA_HOST=address, T2I_EXIT_CODE=str(code_file))
    assert code == 2
    assert code_file.read_text() == "75\n"
    assert ["install", "-qq", "-e", ".[jax-tpu]"] in host.read_json_lines("installed")
    assert host.trainings == [[["--engine=jax", *FLAGS], {}]]


def test_host_that_does_not_answer_is_named(host):
    attributes = {
        "agent-worker-number": "0",
        "worker-network-endpoints": "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.3",
    }
    with serve_metadata(**attributes) as address:
        code, output = host.run_command(
            TRAIN,
            GCE_METADATA_HOST=address,
            STAND_IN_IP="127.0.0.1",
            TPU_TASK_PORT=find_free_port(),
            T2I_WORKER_TRIES="3",
        )
    assert code != 0
    assert "127.0.0.3 does not answer" in output
    assert host.trainings == []


def test_training_is_started_described_and_stopped(host):
    host.plan_trainings("wait", "wait", "wait")
    training = ["jax", "configs/new one.py", "gs://bucket/x"]

    def start_and_wait(count):
        """Start the training and wait until `count` trainings have been started."""
        host.run_script("start", *training)
        deadline = time.monotonic() + 30
        while len(host.trainings) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert host.run_script("state", *training) == ["bare"]
    host.run_script("setup", "jax")
    assert host.run_script("state", *training) == ["idle"]
    start_and_wait(1)
    # This replaces the first training.
    start_and_wait(2)
    assert host.run_script("state", *training) == ["running", "step 1/2: wait"]
    assert host.run_script("state", *training, "--more")[0] == "other"
    # The other engine's packages are not installed, but the running training must be noticed first.
    assert host.run_script("state", "tensorflow", *training[1:])[0] == "other"
    # The stopped training saves and exits with 75.
    host.run_script("stop")
    assert host.run_script("state", *training)[0] == "exit 75"
    assert host.run_script("report", *training) == ["host 0: exit 75"]
    assert host.run_script("state", "tensorflow", *training[1:])[0] == "bare"
    assert host.run_script("state", *training, "--more")[0] == "idle"
    # A killed training leaves no exit code, and that of the training before it does not count.
    start_and_wait(3)
    host.kill_training()
    assert host.run_script("state", *training)[0] == "lost"
