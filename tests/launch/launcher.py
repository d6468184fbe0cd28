"""Launch scripts as processes of their own, forked from one that has imported TensorFlow already.

They read their flags, write and exit as if they had been typed; only the seconds of the imports are
saved. Their one CPU device is not the four logical ones of tests/conftest.py.
"""

import dataclasses
import logging
import multiprocessing
import os
import pathlib
import runpy
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tensorflow", "keras", "t2i_tpu.train.loop", "t2i_tpu.sample.trained", "t2i_tpu.profile.bench"]
)


def forked(target, arguments) -> multiprocessing.Process:
    """A started process that has imported TensorFlow already."""
    # For the server, which the first call starts.
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["GCS_RETRY_CONFIG_INIT_DELAY_TIME_US"] = "10000"  # a second of its own otherwise
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


@dataclasses.dataclass
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that a user error comes to."""
        assert self.code == 1, self
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0]


class Launched:
    """A script under way; with `inside` of tests/gcs, where gs:// works."""

    def __init__(self, script, arguments, folder, environment, inside=None):
        self.folder = folder
        folder.mkdir(parents=True)
        arguments = [str(argument) for argument in arguments]
        self.process = forked(_run, (script, arguments, str(folder), environment, inside))

    def wait(self, seconds=280) -> Result:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError((self.folder / "stderr").read_text())
        texts = [(self.folder / name).read_text() for name in ("stdout", "stderr")]
        return Result(self.process.exitcode, *texts)

    def stderr_so_far(self) -> str:
        path = self.folder / "stderr"
        return path.read_text() if path.exists() else ""

    def wait_for(self, condition, seconds=200) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or not self.process.is_alive():
                raise TimeoutError((self.folder / "stderr").read_text())
            time.sleep(0.02)

    def wait_for_line(self, words) -> None:
        """Until the process has said something on stderr."""
        self.wait_for(lambda: words in self.stderr_so_far())


def _run(script, arguments, folder, environment, inside):
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, number)
    # TensorFlow's logger got a handler of its own when it was imported before absl's was there.
    logging.getLogger("tensorflow").handlers.clear()
    if inside:
        inside.enter()
    os.environ.update(environment)
    os.chdir(folder)
    path = str(ROOT / "launch" / script)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
