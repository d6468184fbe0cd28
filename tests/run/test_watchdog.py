"""What the watchdog says, of real threads and times."""

import threading
import time

import pytest
import tensorflow as tf

from t2i_tpu.run.watchdog import Watchdog
from t2i_tpu.train.step import make_device_loop
from tests import tiny


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


def test_the_device_loop_tells_when_it_waits_for_input(squares):
    """An input that gives two batches and then nothing until it is let go."""
    run, waiting, gate = tiny.Run(tiny.config(squares)), tf.Variable(False), threading.Event()

    def held(index, batch):
        def hold(index):
            return index if index < 2 else gate.wait(200) and index

        index = tf.py_function(hold, [index], tf.int64)
        with tf.control_dependencies([index]):
            return {name: tf.identity(value) for name, value in batch.items()}

    def batches(_):
        return run.dataset.batches(0, 8, 8).enumerate().map(held)

    iterator = iter(run.strategy.distribute_datasets_from_function(batches))
    loop = make_device_loop(run.strategy, run.trainer.replica_step, waiting)
    training = threading.Thread(target=lambda: loop(iterator, tf.constant(4)), daemon=True)
    training.start()
    end, since = time.monotonic() + 200, time.monotonic()
    while time.monotonic() < min(end, since + 2):  # until it has waited for two seconds
        time.sleep(0.05)
        if not waiting.numpy():
            since = time.monotonic()
    assert training.is_alive() and waiting.numpy() and 0 < run.state.step.numpy() < 4
    gate.set()
    training.join(200)
    assert not waiting.numpy() and run.state.step.numpy() == 4
