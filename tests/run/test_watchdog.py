"""The watchdog's reports, with real threads and times."""

import time

import pytest

from t2i_tpu.run.watchdog import Watchdog


def wait_for_lines(caplog, count, seconds=20):
    """Wait until `count` lines have been logged and return all lines."""
    end = time.monotonic() + seconds
    while len(caplog.messages) < count and time.monotonic() < end:
        time.sleep(0.02)
    return caplog.messages


@pytest.mark.parametrize(("is_waiting", "activity"), [(True, "input"), (False, "the device")])
def test_report_names_input_or_device(caplog, is_waiting, activity):
    with Watchdog(0.2 / 60, lambda: is_waiting) as watchdog:
        watchdog.step()
        assert wait_for_lines(caplog, 1)[0].endswith(f"waiting for {activity}")


def test_reports_name_the_activity_of_the_host_and_become_rarer(caplog):
    """They come after 0.2, 0.4, 0.8 and 1.6 s. A step restarts the timer."""
    with Watchdog(0.2 / 60, lambda: True) as watchdog:
        watchdog.step()
        with watchdog.doing("the checkpoint write"):
            time.sleep(2.0)
        lines = list(caplog.messages)
        assert len(lines) == 4
        assert all(line.endswith("waiting for the checkpoint write") for line in lines)
        watchdog.step()
        assert wait_for_lines(caplog, 5)[4].endswith("waiting for input")


def test_nothing_is_reported_while_steps_are_done_or_if_the_watchdog_is_off(caplog):
    for minutes in (1 / 60, 0):
        with Watchdog(minutes, lambda: True) as watchdog:
            for _ in range(8):
                time.sleep(0.2)
                watchdog.step()
    time.sleep(0.5)
    assert caplog.messages == []
