"""Tests runs of several workers: stopping together, the death of one, and resuming with others."""

import json
import re
import socket

import numpy as np
import pytest

from t2i_tpu.run import checkpoint_store
from tests import tiny

CHANGES = dict(train__checkpoint_every=1000, train__steps_per_loop=2, train__log_every=2)


def find_free_addresses(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    return addresses


@pytest.fixture
def start_workers(squares, tmp_path, launch):
    """`start_workers(count, total_steps)` starts the processes of a run in tmp_path/run."""

    def start(count, total_steps, **changes):
        config = tmp_path / "plain.py"
        config.write_text(tiny.CONFIG_FILE)
        flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
        flags += tiny.make_flags(squares, train__total_steps=total_steps, **CHANGES | changes)
        if count == 1:
            return [launch("train.py", flags)]
        addresses = find_free_addresses(count)
        tasks = [
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            for index in range(count)
        ]
        flags.append("--strategy=multiworker")
        return [launch("train.py", flags, {"TF_CONFIG": json.dumps(task)}) for task in tasks]

    return start


def test_signal_to_one_worker_stops_all_at_the_same_step(start_workers, tmp_path, squares):
    """The second of two workers gets the signal, and a single process resumes the run."""
    total = 4000
    first, second = start_workers(2, total)
    second.wait_for_line("starting at")
    first.wait_for_line("step 10/")
    second.process.terminate()
    results = [worker.wait() for worker in (first, second)]
    assert [result.code for result in results] == [75, 75], results
    (step,) = {
        int(re.search(r"stopped at step (\d+) by SIGTERM", result.stderr)[1]) for result in results
    }
    assert checkpoint_store.list_steps(str(tmp_path / "run")) == [step] and 10 <= step < total
    # A run in this process computes the same values.
    reference = tiny.Run(tiny.make_config(squares, train__total_steps=total, **CHANGES))
    reference.steps(step)
    values = tiny.read_checkpoint(tmp_path / "run")
    for name, value in reference.values().items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-5, err_msg=name)

    (resumed,) = start_workers(1, total)
    resumed.wait_for_line(f"resuming at step {step} of {total}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_a_worker_ends_the_run_and_it_can_be_resumed(start_workers, tmp_path, victim):
    workdir, survivor = str(tmp_path / "run"), 1 - victim
    workers = start_workers(2, 10**6, train__checkpoint_every=10)
    workers[0].wait_for(lambda: len(checkpoint_store.list_steps(workdir)) > 1)
    workers[victim].process.kill()
    result = workers[survivor].wait()
    assert result.code == 1, result
    error = result.stderr.splitlines()[-1]
    culprit = rf"(worker {victim}|another worker) of this run"
    assert re.match(
        f"train.py: error: worker {survivor} has lost contact with {culprit}; start the same", error
    ), error
    assert "Traceback" not in result.stderr

    # Resume with fewer workers, and with as many as before.
    newest = checkpoint_store.list_steps(workdir)[0]
    for count in (1, 2):
        workers = start_workers(count, 10**6, train__checkpoint_every=10)
        workers[0].wait_for_line(f"resuming at step {newest} of")
        for worker in workers:
            worker.wait_for_line("resuming at")
        workers[-1].process.terminate()
        assert [worker.wait().code for worker in workers] == [75] * count
        newest = checkpoint_store.list_steps(workdir)[0]
