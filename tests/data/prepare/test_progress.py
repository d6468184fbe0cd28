"""Tests that progress is logged at regular intervals, even if a unit takes long."""

import time

from t2i_tpu.data.prepare import progress


def test_lines_appear_while_nothing_advances(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.05)
    with caplog.at_level("INFO"), progress.show_progress("processing", "units", 3, 1) as shown:
        time.sleep(0.3)
        shown.advance()
        time.sleep(0.3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("processing: 1 of 3 units after 0 s")
    assert lines[-1].startswith("processing: 2 of 3 units after ")
    count = len(lines)
    time.sleep(0.2)
    assert len(caplog.records) == count


def test_short_work_logs_nothing(caplog):
    with caplog.at_level("INFO"), progress.show_progress("reading", "units") as shown:
        assert list(shown.iterate("abc")) == ["a", "b", "c"]
    assert not caplog.records
