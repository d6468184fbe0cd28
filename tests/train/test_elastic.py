"""A run of several workers: what one is told, all do; when one dies, the others say so; and it goes
on with as many as there are."""

import json
import re
import socket

import numpy as np
import pytest

from t2i_tpu.run import checkpoint_store
from tests import tiny

CHANGES = dict(train__checkpoint_every=1000, train__steps_per_loop=2, train__log_every=2)


@pytest.fixture
def workers(squares, tmp_path, launch):
    """`workers(count, total_steps)`: that many processes of one run in tmp_path/run."""

    def workers(count, total_steps, **changes):
        config = tmp_path / "plain.py"
        config.write_text(tiny.CONFIG_FILE)
        flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
        flags += tiny.flags(squares, train__total_steps=total_steps, **CHANGES | changes)
        if count == 1:
            return [launch("train.py", flags)]
        sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
        addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        tasks = [
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            for index in range(count)
        ]
        flags.append("--strategy=multiworker")
        return [launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}) for task in tasks]

    return workers


def test_a_signal_to_one_worker_stops_all_at_the_same_step(workers, tmp_path, squares):
    """The second of two is told; one process goes on to the end."""
    total = 4000
    first, second = workers(2, total)
    second.wait_for_line("starting at")
    first.wait_for_line("step 10/")
    second.process.terminate()
    stopped = [each.wait() for each in (first, second)]
    assert [each.code for each in stopped] == [75, 75], stopped
    steps = {re.search(r"stopped at step (\d+) by SIGTERM", each.stderr)[1] for each in stopped}
    (step,) = map(int, steps)
    assert checkpoint_store.list_steps(str(tmp_path / "run")) == [step] and 10 <= step < total
    reference = tiny.Run(tiny.config(squares, train__total_steps=total, **CHANGES))
    reference.steps(step)
    found = tiny.checkpoint_values(tmp_path / "run")
    for name, value in reference.values().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)

    (alone,) = workers(1, total)
    alone.wait_for_line(f"resuming at step {step} of {total}")


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_worker_that_dies_ends_the_run_and_it_goes_on(workers, tmp_path, dies):
    running = workers(2, 10**6, train__checkpoint_every=10)
    running[0].wait_for(lambda: len(checkpoint_store.list_steps(str(tmp_path / "run"))) > 1)
    running[dies].process.kill()
    other = running[1 - dies].wait()
    assert other.code == 1, other
    error = other.stderr.splitlines()[-1]
    who = (
        rf"(worker {dies}|another worker) of this run is gone, as it seems from worker {1 - dies}; "
    )
    assert re.match(f"train.py: error: {who}start the same command again", error), error
    assert "Traceback" not in other.stderr
    newest = checkpoint_store.list_steps(str(tmp_path / "run"))[0]
    for count in (1, 2):  # with fewer, and with as many as before
        again = workers(count, 10**6, train__checkpoint_every=10)
        again[0].wait_for_line(f"resuming at step {newest} of")
        for each in again:
            each.wait_for_line("resuming at")
        again[-1].process.terminate()
        assert [each.wait().code for each in again] == [75] * count
        newest = checkpoint_store.list_steps(str(tmp_path / "run"))[0]
