"""Signals and notices of Google's metadata server stop a run, even while the device is busy."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from t2i_tpu.run import checkpoint_store
from t2i_tpu.run import stop as stop_lib
from t2i_tpu.run.stop import Stop
from tests import tiny

PREFIX = "/computeMetadata/v1/instance/"
NO_NOTICES = {"maintenance-event": "NONE", "preempted": "FALSE"}


class MetadataServer:
    """A metadata server on the loopback interface that answers as the one of Google's machines.

    Attributes:
      notices: the values that it serves, by name. Tests may change them.
      requests: the names that were requested.
    """

    def __init__(self, notices):
        self.notices, self.requests = dict(notices), []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix(PREFIX)
                status = server.choose_status(self.path, self.headers)
                self.send_response(status)
                self.end_headers()
                if status == 200:
                    server.requests.append(name)
                    self.wfile.write(server.notices[name].encode())

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def choose_status(self, path, headers):
        if headers.get("Metadata-Flavor") != "Google":
            return 403
        is_known = path.startswith(PREFIX) and path.removeprefix(PREFIX) in self.notices
        return 200 if is_known else 404

    @property
    def host(self):
        return f"localhost:{self.http.server_port}"

    def wait_for_polls(self, count, name="preempted"):
        """Wait until a value has been requested `count` more times."""
        total, end = self.requests.count(name) + count, time.monotonic() + 20
        while self.requests.count(name) < total and time.monotonic() < end:
            time.sleep(0.01)
        assert self.requests.count(name) >= total


@pytest.fixture
def start_server(monkeypatch):
    """`start_server(notices)` starts a metadata server that this process polls."""
    servers = []

    def start(notices):
        servers.append(MetadataServer(notices))
        monkeypatch.setenv("GCE_METADATA_HOST", servers[-1].host)
        monkeypatch.delenv("NO_GCE_CHECK", raising=False)
        return servers[-1]

    monkeypatch.setattr(stop_lib, "POLL_SECONDS", 0.02)
    yield start
    for server in servers:
        server.http.shutdown()


@pytest.fixture(scope="module")
def engine():
    return tiny.make_engine()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "a maintenance event"),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", None),  # the machine only pauses
        ("preempted", "TRUE", "a preemption"),
    ],
)
def test_notice_requests_a_stop(start_server, engine, name, value, reason):
    server = start_server(NO_NOTICES)
    with Stop(engine) as stop:
        server.wait_for_polls(3)
        assert stop.agree_on_reason() is None
        server.notices[name] = value
        server.wait_for_polls(3)
        assert stop.agree_on_reason() == reason


def test_notice_from_before_the_start_does_not_count(start_server, engine):
    """Otherwise, a run that is started again would stop again and again until the event."""
    server = start_server(NO_NOTICES | {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
    with Stop(engine) as stop:
        server.wait_for_polls(4)
        assert stop.agree_on_reason() is None
        server.notices["maintenance-event"] = "NONE"
        server.wait_for_polls(3)
        server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        server.wait_for_polls(3)
        assert stop.agree_on_reason() == "a maintenance event"


def test_maintenance_event_is_noticed_without_a_preemption_entry(start_server, engine):
    server = start_server({"maintenance-event": "NONE"})
    with Stop(engine) as stop:
        server.wait_for_polls(3, "maintenance-event")
        server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        end = time.monotonic() + 20
        while not stop.agree_on_reason() and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.agree_on_reason() == "a maintenance event"


def test_missing_metadata_server_requests_no_stop(engine, monkeypatch):
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    with socket.create_server(("localhost", 0)) as closed:
        monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{closed.getsockname()[1]}")
    with Stop(engine) as stop:
        time.sleep(0.1)
        assert stop.agree_on_reason() is None


def test_signals_are_handled_only_inside_the_block(engine):
    old = signal.getsignal(signal.SIGTERM)
    with Stop(engine) as stop:
        assert stop.agree_on_reason() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agree_on_reason() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is old


def test_run_saves_and_stops_at_a_maintenance_event(start_server, squares, tmp_path, launch):
    server = start_server(NO_NOTICES)
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    changes = dict(train__total_steps=10**6, train__checkpoint_every=10**6)
    flags = [
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        *tiny.make_flags(squares, **changes),
    ]
    environment = {"GCE_METADATA_HOST": server.host, "NO_GCE_CHECK": ""}
    running = launch("train.py", flags, environment)
    running.wait_for_line("step 5/")
    running.wait_for(lambda: server.requests)
    server.notices["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    result = running.wait()
    assert result.code == 75, result.stderr
    (step,) = checkpoint_store.list_steps(str(tmp_path / "run"))
    assert f"stopped at step {step} by a maintenance event; run the same command" in result.stderr
    assert not (tmp_path / "run" / "lock.json").exists()


# A device loop that never ends. Python runs no signal handler until it does.
BUSY_PROGRAM = """
import tensorflow as tf
from t2i_tpu.run.stop import Stop
from tests import tiny

@tf.function
def busy():
    return tf.while_loop(lambda n: n >= 0, lambda n: n * 0 + 1, [1])

compiled = busy.get_concrete_function()
with Stop(tiny.make_engine()):
    print("busy", flush=True)
    compiled()
"""


def test_ctrl_c_after_a_signal_does_not_wait_for_the_device():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_GCE_CHECK": "true"}
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.5)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 130 and "stopped at once" in stderr
    finally:
        process.kill()
