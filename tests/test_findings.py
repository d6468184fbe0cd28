"""Findings are printed and reported, and a check that crashes or hangs becomes a finding."""

import multiprocessing
import os
import sys
import time

import pytest

from t2i_tpu import findings
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding
from tests.assertions import assert_mentions

FINE = Finding(OK, "CPU", "2 cores")
SLOW = Finding(WARNING, "precision", "float32 is slow", "use another")
FULL = Finding(PROBLEM, "disk", "full", "free some")
WRONG = Finding(PROBLEM, "keras", "old")


def test_table_is_aligned_and_shows_remedies():
    assert findings.format_table([FINE, SLOW, FULL]).splitlines() == [
        "ok       CPU        2 cores",
        "warning  precision  float32 is slow",
        "                    -> use another",
        "PROBLEM  disk       full",
        "                    -> free some",
    ]


def test_report_raises_the_first_problem_and_logs_the_rest(caplog):
    findings.report([FINE])
    assert not caplog.records
    with pytest.raises(UserError, match="^disk: full; free some$"):
        findings.report([FINE, SLOW, FULL, WRONG])
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["precision: float32 is slow; use another", "keras: old"]


def _return_findings(count):
    return [FINE] * count


def _abort():
    yield FINE
    sys.stderr.write("2026-11-23 19:17:14.28: F external/x.inc:12] Do not available in this.\n")
    sys.stderr.write("*** more that follows\n")
    sys.stderr.flush()
    os.abort()


def _raise():
    raise ImportError("libfoo.so: cannot open shared object file")


def _exit():
    os._exit(3)


def _hang():
    yield FINE
    time.sleep(1000)


def test_isolated_check_returns_its_findings():
    assert list(findings.run_isolated(_return_findings, 3)) == [FINE] * 3


@pytest.mark.parametrize(
    ("check", "count", "words"),
    [
        (_abort, 1, ["SIGABRT", "after its import: Do not available in this."]),
        (_raise, 0, ["imported: ImportError: libfoo.so: cannot open"]),
        (_exit, 0, ["exit code 3", "without a message"]),
    ],
)
def test_crash_of_an_isolated_check_is_a_finding(check, count, words):
    *before, last = findings.run_isolated(check)
    assert before == [FINE] * count and last.status == PROBLEM
    assert_mentions(last.text, words)


def test_hanging_check_is_killed(monkeypatch):
    monkeypatch.setattr(findings, "_TIMEOUT_SECONDS", 4)
    begin = time.monotonic()
    *_, last = findings.run_isolated(_hang)
    assert last.status == PROBLEM and "does not answer" in last.text
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()
