"""What was looked at and found: as a table, in brief, and out of a process that may die."""

import dataclasses
import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator

from absl import logging

from t2i_tpu.errors import UserError

OK, WARNING, PROBLEM = "ok", "warning", "PROBLEM"
_LIMIT = 180  # seconds without a finding: a disk or a bucket that does not answer


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is one line of what to do."""

    status: str  # OK | WARNING | PROBLEM
    subject: str
    text: str
    remedy: str = ""

    def __str__(self):
        return f"{self.subject}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def format_table(findings: Iterable[Finding]) -> str:
    """A line for each, aligned, and its remedy below."""
    findings = list(findings)
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:7}  {finding.subject:{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def report(findings: list[Finding]) -> None:
    """In brief: logs the warnings.

    Raises:
      UserError: of the first problem; the others were logged.
    """
    first = next((finding for finding in findings if finding.status == PROBLEM), None)
    for finding in findings:
        if finding.status != OK and finding is not first:
            logging.warning("%s", finding)
    if first:
        raise UserError(str(first))


def run_isolated(call: Callable[..., Iterable[Finding]], *arguments) -> Iterator[Finding]:
    """What `call(*arguments)` finds in a process of its own. Where that dies, aborts or hangs, one
    more finding says so, with what it had to say on stderr."""
    context = multiprocessing.get_context("spawn")
    received, sent = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile() as stderr:
        process = context.Process(target=_send, args=(sent, stderr.name, call, *arguments))
        process.start()
        sent.close()
        count, is_hanging = 0, False
        try:
            while received.poll(_LIMIT):
                yield received.recv()
                count += 1
            is_hanging = True
            process.kill()
        except EOFError:
            pass
        process.join()
        if is_hanging or process.exitcode:
            yield _death(
                process.exitcode, is_hanging, count, stderr.read().decode(errors="replace")
            )


def _send(sent, stderr, call, *arguments) -> None:
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    for finding in call(*arguments):
        sent.send(finding)


def _death(code: int, is_hanging: bool, count: int, stderr: str) -> Finding:
    when = "further on" if count else "when it is imported"
    if is_hanging:
        what = f"does not answer for {_LIMIT} s {when}"
    else:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        what = f"ends with {name} {when}"
    fatal = re.findall(r"(?:^| )F\d* [^\n]*?\] ([^\n]*)", stderr, re.MULTILINE)
    lines = fatal or [line for line in stderr.splitlines() if line.strip()]
    remedy = "mend what stands above, or install TensorFlow anew: make clean, then make train-gpu"
    return Finding(PROBLEM, "tensorflow", f"{what}: {(lines or ['silently'])[-1].strip()}", remedy)
