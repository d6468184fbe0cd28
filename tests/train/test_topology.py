"""One device, two, and two machines: after 20 steps the same weights, in float32 to 1e-5."""

import json
import socket

import numpy as np
import pytest

from t2i_tpu.train.checkpoint import Checkpointer
from t2i_tpu.train.versions import Keep
from tests.train import tiny

TOLERANCE = 1e-5
CHANGES = dict(model__widths=(16, 32), model__attention_levels=(False, True))


@pytest.fixture(scope="module")
def alone(squares):
    """The values of a run on one device: before its first step and after 20."""
    run = tiny.Run(tiny.config(squares, **CHANGES))
    start = run.values()
    run.steps(20)
    return start, run.values()


def assert_same(found, alone):
    start, end = alone
    assert found.keys() == end.keys()
    for name, value in end.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE, err_msg=name)
    # As large as the tolerance would be nothing: the weights have moved a hundred times as far.
    moved = [np.abs(end[name] - start[name]).max() for name in end if name.startswith("weights/")]
    assert np.median(moved) > 100 * TOLERANCE


def test_two_devices(squares, alone):
    run = tiny.Run(tiny.config(squares, **CHANGES), ["CPU:0", "CPU:1"])
    run.steps(20)
    assert_same(run.values(), alone)


def test_two_machines_on_loopback(squares, alone, tmp_path, launch):
    """Two processes through launch/train.py; the first one writes, the second nothing."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    workdir = tmp_path / "workdir"
    flags = [f"--config={config}", f"--workdir={workdir}", "--strategy=multiworker"]
    flags += tiny.flags(squares, **CHANGES)
    running = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        running.append(launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}))
    for each in running:
        result = each.wait()
        assert result.code == 0, result.stderr
    found = tiny.checkpoint_values(workdir)
    assert_same(found, alone)
    assert "2 replica(s)" in result.stderr
    # Only the first wrote: one file of events, one picture, one checkpoint.
    assert len(list((workdir / "logs").iterdir())) == 1
    assert [path.name for path in (workdir / "previews").iterdir()] == ["step_00000020.png"]


def test_a_checkpoint_of_two_devices_goes_on_on_one(squares, tmp_path):
    """Ten steps on two devices, ten more on one."""
    config = tiny.config(squares)
    two = tiny.Run(config, ["CPU:0", "CPU:1"])
    two.steps(10)
    checkpointer = Checkpointer(str(tmp_path), two.state, Keep(1))
    checkpointer.save()
    checkpointer.finish()
    two.steps(10)
    one = tiny.Run(config)
    start = Checkpointer(str(tmp_path), one.state, Keep(1)).restore()
    assert start == 10
    one.iterator = one.batches(start)
    one.steps(10)
    found, expected = one.values(), two.values()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=TOLERANCE)
