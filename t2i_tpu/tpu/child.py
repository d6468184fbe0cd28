"""Child processes for the TPU's compiler, with a time limit and a progress message."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence


class CompilationError(Exception):
    """The compiler produced no result: it could not be installed, took too long, or reported an error.

    Attributes:
      skipped: whether the compiler did not run at all.
      hbm_needed: bytes of HBM that the program needs, if the compiler rejected it for that reason.
    """

    def __init__(self, reason: str, skipped: bool = False, hbm_needed: int | None = None):
        super().__init__(reason)
        self.skipped, self.hbm_needed = skipped, hbm_needed


def run_child(command: Sequence[str], task: str, timeout: float) -> tuple[int, str]:
    """Run a command and print a progress message to stderr.

    Args:
      command: program and arguments.
      task: a description of the command, for the progress message and the error.
      timeout: seconds after which the command is stopped.

    Returns:
      The exit code, and stdout and stderr as one string.

    Raises:
      CompilationError: the command took too long.
    """
    begin = last_report = time.monotonic()
    interactive = sys.stderr.isatty()
    report_seconds = 1 if interactive else 60
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            while child.poll() is None:
                now = time.monotonic()
                if now - begin > timeout:
                    raise CompilationError(f"{task} took more than {timeout:.0f} s and was stopped")
                if now - last_report >= report_seconds:
                    last_report = now
                    end = "\r" if interactive else "\n"
                    print(f"{task}: {now - begin:.0f} s", end=end, file=sys.stderr)
                time.sleep(0.1)
        finally:
            if interactive:
                print("\033[K", end="", file=sys.stderr)
            child.kill()
            child.wait()
        output.seek(0)
        return child.returncode, output.read()


def get_last_line(output: str) -> str:
    """Return the last line of a command's output that is not blank."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
