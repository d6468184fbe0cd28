"""Runs launch scripts in processes that are forked from one that has already imported TensorFlow.

The scripts parse their flags, write files and exit as usual, but start faster. They have one CPU
device, not the four logical ones of tests/conftest.py.
"""

import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import pathlib
import runpy
import sys
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tensorflow", "keras", "t2i_tpu.train.loop", "t2i_tpu.sample.trained", "t2i_tpu.profile.bench"]
)


def start_process(target: Callable, arguments: tuple) -> multiprocessing.Process:
    """Start a process that has already imported TensorFlow and calls `target(*arguments)`."""
    # The first call starts the fork server, which reads these.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["GCS_RETRY_CONFIG_INIT_DELAY_TIME_US"] = "10000"  # instead of one second
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


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
            _run_script, (script, arguments, str(folder), environment, inside)
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
