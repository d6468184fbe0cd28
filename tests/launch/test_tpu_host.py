"""launch/tpu_host.sh and `make train-tpu`: is there a TPU, and what TensorFlow is told of it."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from tests.launch.tpu import Cloud

TRAIN = ["make", "train-tpu", "CONFIG=configs/new one.py", "WORKDIR=gs://bucket/x"]
TRAINED = ["--strategy=tpu", "--config=configs/new one.py", "--workdir=gs://bucket/x"]


@pytest.fixture
def host(tmp_path):
    """A host of a TPU: the checkout, and a Python whose pip and train.py only write down."""
    host = Cloud(tmp_path)
    path = f"{tmp_path / 'vm_bin'}:{tmp_path / 'bin'}"

    def start(command, **environment):
        return subprocess.Popen(
            command,
            cwd=host.checkout,
            env=host.environment(PATH=path) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    host.start = start
    yield host
    host.cut_off()


def finished(process):
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout + stderr


def has(host, device, vendor="0x1ae0"):
    (host.folder / "pci/0/vendor").write_text(vendor + "\n")
    (host.folder / "pci/0/device").write_text(device + "\n")


@pytest.mark.parametrize(
    ("device", "vendor"),
    [
        ("0x0042", "0x1ae0"),  # Google's network card
        ("0x0027", "0x8086"),
    ],
)
def test_without_a_tpu_it_says_so_and_installs_nothing(host, device, vendor):
    has(host, device, vendor)
    code, text = finished(host.start(TRAIN))
    lines = [line for line in text.splitlines() if not line.startswith("make: ***")]
    assert code != 0 and len(lines) == 1, text
    assert "no TPU" in lines[0] and "docs/tpu.md" in lines[0] and "run make train " in lines[0]
    assert not (host.checkout / ".venv").exists() and not host.lines("installed")


@pytest.mark.parametrize("device", ["0x0027", "0x005e", "0x0062", "0x0063", "0x006f"])
def test_the_whole_job(host, device):
    has(host, device)
    host.plan(0)
    code, text = finished(host.start([*TRAIN, "ARGS=--seed=1"]))
    assert code == 0, text
    assert ["install", "-qq", "-e", ".[tpu]"] in host.lines("installed")
    assert host.lines("trained") == [[[*TRAINED, "--seed=1"], {}]]


def test_what_this_machine_has_can_be_said(host):
    has(host, "0x9999")  # a TPU of the future
    host.plan(0)
    assert finished(host.start([*TRAIN, "HAS=tpu"]))[0] == 0
    assert len(host.lines("trained")) == 1


@contextlib.contextmanager
def metadata(**attributes):
    """A metadata server of a TPU's host; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            if self.headers["Metadata-Flavor"] != "Google" or key not in attributes:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(attributes[key].encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def answers(address, port):
    with contextlib.suppress(OSError), socket.create_connection((address, int(port)), timeout=1):
        return True
    return False


def test_a_pod_is_driven_by_its_first_host_and_served_by_all(host):
    port, addresses = free_port(), ["127.0.0.1", "127.0.0.2"]
    endpoints = ",".join(f"unknown:unknown:{address}" for address in addresses)
    host.plan(75)
    with contextlib.ExitStack() as stack:
        processes = []
        for number, address in enumerate(addresses):
            server = metadata(**{
                "agent-worker-number": str(number), "worker-network-endpoints": endpoints,
            })  # fmt: skip
            environment = {
                "GCE_METADATA_HOST": stack.enter_context(server),
                "STAND_IN_IP": address,
                "TPU_TASK_PORT": port,
                "T2I_EXIT_CODE": str(host.folder / f"code{number}"),
            }
            if number:
                time.sleep(2)  # the first waits for the second
                assert host.lines("trained") == []
            processes.append(host.start(TRAIN, **environment))
            if not number:
                deadline = time.monotonic() + 30
                while not answers(address, port) and time.monotonic() < deadline:
                    time.sleep(0.05)
        first, second = processes
        code, text = finished(first)
        assert code == 2 and (host.folder / "code0").read_text() == "75\n", text
        tpu = ",".join(f"grpc://{address}:{port}" for address in addresses)
        assert host.lines("trained") == [[TRAINED, {"TPU_NAME": tpu, "TPU_LOAD_LIBRARY": "0"}]]
        assert not answers(addresses[0], port)  # its worker went with it
        assert answers(addresses[1], port) and second.poll() is None
        os.killpg(second.pid, signal.SIGTERM)
        assert finished(second)[0] != 0


def test_a_host_that_does_not_serve_is_named(host):
    endpoints = "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.3"
    attributes = {"agent-worker-number": "0", "worker-network-endpoints": endpoints}
    with metadata(**attributes) as address:
        code, text = finished(
            host.start(
                TRAIN,
                GCE_METADATA_HOST=address,
                STAND_IN_IP="127.0.0.1",
                TPU_TASK_PORT=free_port(),
                T2I_WORKER_TRIES="3",
            )
        )
    assert code != 0 and "127.0.0.3 does not answer" in text
    assert host.lines("trained") == []


def test_start_state_and_stop(host):
    host.plan("wait", "wait", "wait")
    words = ["configs/new one.py", "gs://bucket/x"]

    def asked(*more):
        return finished(host.start(["launch/tpu_host.sh", *more]))[1].splitlines()

    def start(count):
        asked("start", *words)
        deadline = time.monotonic() + 30
        while len(host.lines("trained")) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert asked("state", *words) == ["idle"]
    start(1)
    start(2)  # instead of the first
    assert asked("state", *words) == ["running", "step 1/2: wait"]
    assert asked("state", *words, "--more")[0] == "other"
    asked("stop")
    assert asked("state", *words)[0] == "exit 75"  # it was let save
    assert asked("state", *words, "--more")[0] == "idle"
    start(3)
    host.cut_off()
    assert asked("state", *words)[0] == "lost"  # and not the 75 of the one before
