"""Tests that a run on JAX does not depend on its devices, up to rounding errors."""

import json

import numpy as np
import pytest

from tests.engines.probe import Job, run_jobs_on_jax, start_on_jax, wait_for_results
from tests.launch import launcher
from tests.training.test_topology import assert_same

pytest.importorskip("jax", reason="needs jax (extra dev)")

SHARD = {"train__shard_state": True}


@pytest.fixture(scope="module")
def results(squares, tmp_path_factory):
    """The results of runs on one device and on four that share the moments and averages.

    "resumed" resumes on one device after ten steps on four.
    """
    folder = tmp_path_factory.mktemp("topology")
    saved = str(folder / "four")
    jobs = {
        "one": Job(str(squares), {}),
        "four": Job(str(squares), SHARD, 4, stops=(10, 20), save=saved, save_at=10),
        "resumed": Job(str(squares), {}, stops=(20,), restore=saved),
    }
    return run_jobs_on_jax(jobs, folder / "results")


def get_run(results):
    """Return the values of all variables at the start and after 20 steps."""
    return tuple(
        {
            key.removeprefix(f"{step}/"): value
            for key, value in results.items()
            if key.startswith(f"{step}/")
        }
        for step in (0, 20)
    )


def test_four_devices_agree_with_one(results):
    assert_same(get_run(results["four"])[1], get_run(results["one"]))


def test_a_checkpoint_of_four_devices_resumes_on_one(results):
    assert results["resumed"]["10/weights/denoiser/unet/head/kernel"].any()
    for key, value in results["four"].items():
        if key.startswith("10/"):
            np.testing.assert_array_equal(results["resumed"][key], value, err_msg=key)
    assert_same(get_run(results["resumed"])[1], get_run(results["one"]))


def test_devices_share_the_moments_and_averages(results):
    """Each of the four devices holds little more than a quarter, and a copy of all weights."""

    def count_bytes(name, group):
        return sum(
            value for key, value in results[name].items() if key.startswith(f"bytes/{group}")
        )

    for group in ("first_moments/", "second_moments/", "average0/"):
        assert count_bytes("four", group) < 0.27 * count_bytes("one", group)
    assert count_bytes("four", "weights/") == count_bytes("one", "weights/")


@pytest.mark.parametrize("shard_state", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_workers_agree_with_one_device(results, squares, tmp_path, shard_state):
    """Two processes connect by TF_CONFIG. Each reads half of the streams."""
    job = Job(str(squares), SHARD if shard_state else {}, devices=0)
    workers = []
    for index, task in enumerate(launcher.make_tasks(2)):
        path = tmp_path / f"results{index}"
        environment = {"TF_CONFIG": json.dumps(task), "XLA_FLAGS": ""}
        workers.append((start_on_jax({"worker": job}, path, **environment), path))
    for worker in workers:
        values = wait_for_results(*worker)["worker"]
        assert_same(get_run(values)[1], get_run(results["one"]))


@pytest.mark.slow
def test_other_numbers_of_devices_agree_with_one(results, squares, tmp_path):
    jobs = {
        f"{count}-{shard_state}": Job(str(squares), {"train__shard_state": shard_state}, count)
        for count, shard_state in ((2, False), (2, True), (4, False))
    }
    for values in run_jobs_on_jax(jobs, tmp_path / "results").values():
        assert_same(get_run(values)[1], get_run(results["one"]))


@pytest.mark.slow
def test_baseline_agrees_too(squares, tmp_path):
    """Its batch norms use the statistics of the entire batch."""
    changes = {
        "recipe": "baseline",
        "model__conditioning": "label",
        "model__widths": (8, 16),
        "model__attention_levels": (False, True),
    }
    jobs = {f"{count}": Job(str(squares), changes, count) for count in (1, 4)}
    results = run_jobs_on_jax(jobs, tmp_path / "results")
    assert_same(get_run(results["4"])[1], get_run(results["1"]))


@pytest.mark.slow
def test_steps_per_loop_does_not_matter(results, squares, tmp_path):
    """The weights are equal bit for bit, and so are those of several calls of one loop."""
    jobs = {
        "1": Job(str(squares), {"train__steps_per_loop": 1}),
        "20": Job(str(squares), {"train__steps_per_loop": 20}, stops=(3, 11, 20)),
    }
    for values in run_jobs_on_jax(jobs, tmp_path / "results").values():
        for key, value in results["one"].items():
            if key.startswith("20/"):
                np.testing.assert_array_equal(values[key], value, err_msg=key)
