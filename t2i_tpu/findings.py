"""Findings of checks: printing and reporting them, and running a check that may crash."""

import dataclasses
import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection

from absl import logging

from t2i_tpu.errors import UserError
from t2i_tpu.process.workers import exit_with_parent, start_spawned

OK, WARNING, PROBLEM = "ok", "warning", "PROBLEM"
# A check that yields nothing for this long is considered hung, for example on a disk or a bucket.
_TIMEOUT_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
      status: OK, WARNING or PROBLEM.
      subject: name of the checked thing, such as "disk".
      text: result of the check.
      remedy: instruction for the user, or "".
    """

    status: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self):
        return f"{self.subject}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def format_table(findings: Iterable[Finding]) -> str:
    """Return an aligned table with a line for each finding and, below it, its remedy."""
    findings = list(findings)
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:7}  {finding.subject:{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def report(findings: list[Finding]) -> None:
    """Log the warnings, and raise the first problem. Further problems are logged as warnings.

    Raises:
      UserError: there is a problem.
    """
    first = next((finding for finding in findings if finding.status == PROBLEM), None)
    for finding in findings:
        if finding.status != OK and finding is not first:
            logging.warning("%s", finding)
    if first:
        raise UserError(str(first))


def run_isolated(check: Callable[..., Iterable[Finding]], *arguments) -> Iterator[Finding]:
    """Yield the findings of `check(*arguments)`, which runs in a separate process.

    If that process dies, aborts or hangs, the last finding reports this and quotes its stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile() as stderr:
        process = context.Process(target=_send, args=(sender, stderr.name, check, *arguments))
        start_spawned(process)
        sender.close()
        count, is_hanging = 0, False
        try:
            while receiver.poll(_TIMEOUT_SECONDS):
                yield receiver.recv()
                count += 1
            is_hanging = True
        except EOFError:  # the process ends
            process.join()
        finally:
            process.kill()
            process.join()
        if is_hanging or process.exitcode:
            output = stderr.read().decode(errors="replace")
            yield _describe_crash(process.exitcode, is_hanging, count, output)


def _send(sender: Connection, stderr: str, check: Callable, *arguments) -> None:
    """Send the findings of a check, with stderr redirected to the file of that name."""
    exit_with_parent()
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    for finding in check(*arguments):
        sender.send(finding)


def _describe_crash(exit_code: int, is_hanging: bool, count: int, stderr: str) -> Finding:
    """Return the finding that a process has crashed or hung after it sent `count` findings."""
    when = "after its import" if count else "when it is imported"
    if is_hanging:
        text = f"does not answer for {_TIMEOUT_SECONDS} s {when}"
    else:
        name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        text = f"ends with {name} {when}"
    # Quote the last fatal log line, or else the last line.
    fatal = re.findall(r"(?:^| )F\d* [^\n]*?\] ([^\n]*)", stderr, re.MULTILINE)
    lines = fatal or [line for line in stderr.splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else "without a message"
    remedy = "fix the error above, or reinstall TensorFlow: make clean, then make train"
    return Finding(PROBLEM, "tensorflow", f"{text}: {reason}", remedy)
