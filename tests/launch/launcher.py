"""Runs launch scripts in processes that are forked from one that has already imported their modules.

The scripts parse their flags, write files and exit as usual, but start faster. They have one CPU
device, not the four logical ones of tests/conftest.py. Those with the flag --engine=jax are forked from
a process in which Keras uses JAX, and share its cache of compiled programs.
"""

import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import pathlib
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
MODULES = ["tensorflow", "t2i_tpu.training.loop", "t2i_tpu.sample.trained", "t2i_tpu.profile.bench"]
# Engine -> the server from which its processes are forked.
SERVERS = {"tensorflow": forkserver.ForkServer(), "jax": forkserver.ForkServer()}
COMPILED = tempfile.TemporaryDirectory(prefix="t2i_tpu-tests-compiled-")
# The environment in which a server is started.
ENVIRONMENTS = {
    "tensorflow": {"KERAS_BACKEND": "tensorflow"},
    "jax": {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
    },
}
SERVERS["tensorflow"].set_forkserver_preload(MODULES)
SERVERS["jax"].set_forkserver_preload([*MODULES, "t2i_tpu.engines.jax.engine"])


def start_process(
    target: Callable, arguments: tuple, engine: str = "tensorflow"
) -> multiprocessing.Process:
    """Start a process that has already imported an engine and calls `target(*arguments)`."""
    # The first call starts the fork server, which reads these.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["GCS_RETRY_CONFIG_INIT_DELAY_TIME_US"] = "10000"  # instead of one second
    process = CONTEXT.Process(target=target, args=arguments)
    connect = SERVERS[engine].connect_to_new_process
    with (
        mock.patch.dict(os.environ, ENVIRONMENTS[engine]),
        mock.patch.object(forkserver, "connect_to_new_process", connect),
    ):
        process.start()
    return process


def make_tasks(count: int) -> list[dict]:
    """Return the TF_CONFIGs of some workers on this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    workers = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    return [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(count)
    ]


@dataclasses.dataclass
class Result:
    """The exit code and the output of a script."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of stderr after a user error."""
        assert self.code == 1, self
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0]


class RunningScript:
    """A launch script in a process of its own.

    Attributes:
      folder: the script's working directory, which also holds its output.
      process: the process.
    """

    def __init__(self, script, arguments, folder, environment, inside=None):
        self.folder = folder
        folder.mkdir(parents=True)
        arguments = [str(argument) for argument in arguments]
        self.process = start_process(
            _run_script,
            (script, arguments, str(folder), environment, inside),
            "jax" if "--engine=jax" in arguments else "tensorflow",
        )

    def wait(self, seconds=280) -> Result:
        """Wait until the script ends and return its result."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.stderr_so_far())
        stdout = (self.folder / "stdout").read_text()
        return Result(self.process.exitcode, stdout, self.stderr_so_far())

    def stderr_so_far(self) -> str:
        """Return what the script has written to stderr by now."""
        path = self.folder / "stderr"
        return path.read_text() if path.exists() else ""

    def wait_for(self, condition: Callable[[], bool], seconds=200) -> None:
        """Wait until a condition holds; raise TimeoutError if the script ends before."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or not self.process.is_alive():
                raise TimeoutError(self.stderr_so_far())
            time.sleep(0.02)

    def wait_for_line(self, words: str) -> None:
        """Wait until the script has written some words to stderr."""
        self.wait_for(lambda: words in self.stderr_so_far())


@contextlib.contextmanager
def open_launcher(root: pathlib.Path) -> Iterator[Callable[..., RunningScript]]:
    """Yield a function that starts scripts; on exit, kill those that are still running.

    The function takes the script's name, such as "train.py", its arguments, additional environment
    variables, and `inside=gcs.inside` to start the script where gs:// works.
    """
    scripts, numbers = [], itertools.count()

    def launch_script(script, arguments, environment=(), inside=None):
        folder = root / f"{next(numbers)}"
        scripts.append(RunningScript(script, arguments, folder, dict(environment), inside))
        return scripts[-1]

    try:
        yield launch_script
    finally:
        for script in scripts:
            if script.process.is_alive():
                script.process.kill()


def _run_script(script, arguments, folder, environment, inside):
    """Run a script in this process, as if it had been started in `folder`."""
    # Redirect the output to files.
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
    # The preloaded TensorFlow gave its logger a handler, because absl's did not exist yet.
    logging.getLogger("tensorflow").handlers.clear()
    # Set up the surroundings and run.
    if inside:
        inside.enter()
    os.environ.update(environment)
    os.chdir(folder)
    path = str(ROOT / "launch" / script)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
