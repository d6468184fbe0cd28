"""Signals while the device is busy, and what Google's metadata server announces."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from t2i_tpu.run import checkpoint_store
from t2i_tpu.run import stop as stop_lib
from t2i_tpu.run.stop import Stop
from tests import tiny


class MetadataServer:
    """Answers on loopback as a Google machine's does: only to who says Metadata-Flavor: Google."""

    def __init__(self, notices):
        self.notices, self.asked = dict(notices), []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                prefix = "/computeMetadata/v1/instance/"
                name = self.path.removeprefix(prefix)
                flavour = self.headers.get("Metadata-Flavor") == "Google"
                found = flavour and self.path.startswith(prefix) and name in server.notices
                self.send_response(200 if found else 404 if flavour else 403)
                self.end_headers()
                if found:
                    server.asked.append(name)
                    self.wfile.write(server.notices[name].encode())

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def host(self):
        return f"localhost:{self.http.server_port}"

    def wait_until_asked(self, times):
        end = time.monotonic() + 20
        while self.asked.count("preempted") < times and time.monotonic() < end:
            time.sleep(0.01)
        assert self.asked.count("preempted") >= times


NONE = {"maintenance-event": "NONE", "preempted": "FALSE"}


@pytest.fixture
def metadata(monkeypatch):
    """`metadata(notices)`: the server that this process asks."""
    servers = []

    def metadata(notices):
        servers.append(MetadataServer(notices))
        monkeypatch.setenv("GCE_METADATA_HOST", servers[-1].host)
        monkeypatch.delenv("NO_GCE_CHECK", raising=False)
        return servers[-1]

    monkeypatch.setattr(stop_lib, "POLL_SECONDS", 0.02)
    yield metadata
    for server in servers:
        server.http.shutdown()


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "a maintenance event"),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", None),  # it only pauses
        ("preempted", "TRUE", "a preemption"),
    ],
)
def test_a_notice(metadata, strategy, name, value, reason):
    server = metadata(NONE)
    with Stop(strategy) as stop:
        server.wait_until_asked(3)
        assert stop.reason() is None
        server.notices[name] = value
        server.wait_until_asked(server.asked.count("preempted") + 3)
        assert stop.reason() == reason


def test_a_notice_that_was_there_before_is_another_runs(metadata, strategy):
    """Else the run that is started again would stop again, and again, until the event."""
    server = metadata(NONE | {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
    with Stop(strategy) as stop:
        server.wait_until_asked(4)
        assert stop.reason() is None
        server.notices["maintenance-event"] = "NONE"
        server.wait_until_asked(server.asked.count("preempted") + 3)
        server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        server.wait_until_asked(server.asked.count("preempted") + 3)
        assert stop.reason() == "a maintenance event"


def test_a_machine_without_preemption_or_without_a_server(metadata, strategy, monkeypatch):
    server = metadata({"maintenance-event": "NONE"})
    with Stop(strategy) as stop:
        while server.asked.count("maintenance-event") < 3:
            time.sleep(0.01)
        server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        end = time.monotonic() + 20
        while not stop.reason() and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.reason() == "a maintenance event"
    with socket.create_server(("localhost", 0)) as closed:
        monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{closed.getsockname()[1]}")
    with Stop(strategy) as stop:
        time.sleep(0.1)
        assert stop.reason() is None


def test_a_signal_is_the_runs_only_while_it_listens(strategy):
    old = signal.getsignal(signal.SIGTERM)
    with Stop(strategy) as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is old


@pytest.fixture
def training(squares, tmp_path, launch, metadata):
    """`training(changes)`: a long run on a machine of Google's, in its workdir tmp_path/run."""

    def training(**changes):
        server = metadata(NONE)
        config = tmp_path / "plain.py"
        config.write_text(tiny.CONFIG_FILE)
        flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
        flags += tiny.flags(squares, train__total_steps=10**6, **changes)
        environment = {"GCE_METADATA_HOST": server.host, "NO_GCE_CHECK": ""}
        return server, launch("train.py", flags, environment)

    return training


def test_a_run_that_is_told_of_maintenance_saves_and_stops(training, tmp_path):
    server, running = training(train__checkpoint_every=10**6)
    running.wait_for_line("step 5/")
    running.wait_for(lambda: server.asked)
    server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    result = running.wait()
    assert result.code == 75, result.stderr
    (step,) = checkpoint_store.list_steps(str(tmp_path / "run"))
    assert f"stopped at step {step} by a maintenance event; run the same command" in result.stderr
    assert not (tmp_path / "run" / "lock.json").exists()


BUSY = """
import tensorflow as tf
from t2i_tpu.run.stop import Stop

@tf.function
def busy():
    return tf.while_loop(lambda n: n >= 0, lambda n: n * 0 + 1, [1])

strategy = tf.distribute.MirroredStrategy(["CPU:0"])
compiled = busy.get_concrete_function()
with Stop(strategy):
    print("busy", flush=True)
    compiled()
"""


def test_the_second_ctrl_c_does_not_wait_for_the_device():
    """A device loop that never ends: Python runs no handler until it does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_GCE_CHECK": "true"}
    command = [sys.executable, "-c", BUSY]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, env=environment, **pipes)
    try:
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.5)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 130 and "stopped at once" in stderr
    finally:
        process.kill()
