"""A table to read, a brief telling, and a process that dies in place of the doctor."""

import multiprocessing
import os
import sys
import time

import pytest

from t2i_tpu import findings
from t2i_tpu.errors import UserError
from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding

FINE = Finding(OK, "CPU", "2 cores")
SLOW = Finding(WARNING, "precision", "float32 is slow", "use another")
FULL = Finding(PROBLEM, "disk", "full", "free some")
WRONG = Finding(PROBLEM, "keras", "old")


def test_a_table_is_aligned_and_has_the_remedies():
    assert findings.format_table([FINE, SLOW, FULL]).splitlines() == [
        "ok       CPU        2 cores",
        "warning  precision  float32 is slow",
        "                    -> use another",
        "PROBLEM  disk       full",
        "                    -> free some",
    ]


def test_in_brief_the_first_problem_is_the_error_and_the_rest_is_logged(caplog):
    findings.report([FINE])
    assert not caplog.records
    with pytest.raises(UserError, match="^disk: full; free some$"):
        findings.report([FINE, SLOW, FULL, WRONG])
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["precision: float32 is slow; use another", "keras: old"]


def _fine(count):
    return [FINE] * count


def _aborts():
    yield FINE
    sys.stderr.write("2026-11-23 19:17:14.28: F external/x.inc:12] Do not available in this.\n")
    sys.stderr.write("*** more that follows\n")
    sys.stderr.flush()
    os.abort()


def _raises():
    raise ImportError("libfoo.so: cannot open shared object file")


def _exits():
    os._exit(3)


def _hangs():
    yield FINE
    time.sleep(1000)


def test_findings_come_out_of_another_process():
    assert list(findings.run_isolated(_fine, 3)) == [FINE] * 3


@pytest.mark.parametrize(
    ("call", "count", "words"),
    [
        (_aborts, 1, ["SIGABRT", "further on: Do not available in this."]),
        (_raises, 0, ["imported: ImportError: libfoo.so: cannot open"]),
        (_exits, 0, ["exit code 3", "silently"]),
    ],
)
def test_its_death_is_a_finding(call, count, words):
    *before, last = findings.run_isolated(call)
    assert before == [FINE] * count and last.status == PROBLEM
    for word in words:
        assert word in last.text


def test_one_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(findings, "_LIMIT", 4)  # 4 s; the process itself takes longer to start
    begin = time.monotonic()
    *_, last = findings.run_isolated(_hangs)
    assert last.status == PROBLEM and "does not answer" in last.text
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()
