"""What the watchdog says, of real threads and times."""

import time

import pytest

from t2i_tpu.train.watchdog import Watchdog


def lines(caplog, count, seconds=20):
    end = time.monotonic() + seconds
    while len(caplog.messages) < count and time.monotonic() < end:
        time.sleep(0.02)
    return caplog.messages


@pytest.mark.parametrize(("waits", "what"), [(True, "input"), (False, "the device")])
def test_input_or_device(caplog, waits, what):
    with Watchdog(0.2 / 60, lambda: waits) as watchdog:
        watchdog.step()
        assert lines(caplog, 1)[0].endswith(f"waiting for {what}")


def test_what_the_host_does_and_ever_more_seldom(caplog):
    """Lines at 0.2, 0.4, 0.8 and 1.6 s; a step starts it anew."""
    with Watchdog(0.2 / 60, lambda: True) as watchdog:
        watchdog.step()
        with watchdog.doing("the checkpoint write before"):
            time.sleep(2.0)
        found = list(caplog.messages)
        assert len(found) == 4
        assert all(line.endswith("waiting for the checkpoint write before") for line in found)
        watchdog.step()
        assert len(lines(caplog, 5)) >= 5 and caplog.messages[4].endswith("waiting for input")


def test_silent_while_steps_are_done_and_when_it_is_off(caplog):
    for minutes in (1 / 60, 0):
        with Watchdog(minutes, lambda: True) as watchdog:
            for _ in range(8):
                time.sleep(0.2)
                watchdog.step()
    time.sleep(0.5)
    assert caplog.messages == []
