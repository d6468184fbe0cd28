"""Tests that TensorFlow and JAX train the same run, up to rounding errors.

The differences of weights are norms over all weights, relative to the norm of the weights. Single
variables may differ by more of their own norm: Adam divides a gradient by its size, so a weight whose
true gradient is 0 moves in the direction of a rounding error. Such weights are still close to 0.
"""

import hashlib

import numpy as np
import pytest

from tests.engines.probe import Job, Results, run_jobs, run_jobs_on_jax

pytest.importorskip("jax", reason="needs jax (extra dev)")

# Recipe -> the tolerances after 20 and 60 steps. Rounding errors of the baseline grow faster, because it
# has neither warm-up nor clipping. On TensorFlow alone, noise that differs by 2**-22 of its values
# changes its weights by 6e-6 after 60 steps.
TOLERANCES = {"modern": (1e-6, 1e-6), "baseline": (1e-5, 3e-5)}
# The parts of a corrupted batch that are equal bit for bit, and those whose last bits may differ.
EXACT = {"pixels", "slot", "noise_level", "embedding", "sequence", "label", "tokens"}
CONDITIONS = {"embedding", "label", "tokens"}
ROUNDED = {"image", "noise", "noisy"}
# Cases of a recipe and a conditioning. The first one is quick.
SLOW = [
    "modern/embedding",
    "modern/label",
    "modern/tokens",
    "baseline/embedding",
    "baseline/label",
    "baseline/tokens",
]


@pytest.fixture(
    scope="module",
    params=["modern/sequence", *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
)
def results(request, squares, tmp_path_factory):
    """The results of both engines, as {"tensorflow": {...}, "jax": {...}}, and the "recipe".

    "full" is a run of 60 steps. "resumed" does its last 30 steps, from the other engine's checkpoint.
    """
    recipe, kind = request.param.split("/")
    changes = {
        "recipe": recipe,
        "model__conditioning": kind,
        "model__widths": (8, 16),
        "model__attention_levels": (False, True),
        "data__horizontal_flip": True,
        "train__total_steps": 60,
    }
    if recipe == "baseline":
        # The engines' inverse error functions differ in the last bit of the recipe's own noise levels.
        # The embedding of the noise level multiplies this by 6,000. The weights then differ by 9e-6
        # after 20 steps.
        changes["diffusion__noise_levels"] = "uniform"
    folder = tmp_path_factory.mktemp("parity")
    saved = {engine: str(folder / engine) for engine in ("tensorflow", "jax")}

    def make_full(engine):
        return Job(
            str(squares), changes, stops=(20, 30, 60), draw_at=20, count_examples=20,
            save=saved[engine], save_at=30,
        )  # fmt: skip

    def make_resumed(other):
        return Job(str(squares), changes, stops=(60,), restore=saved[other])

    on_tensorflow = run_jobs({"full": make_full("tensorflow")})
    on_jax = run_jobs_on_jax(
        {"full": make_full("jax"), "resumed": make_resumed("tensorflow")}, folder / "results"
    )
    on_tensorflow |= run_jobs({"resumed": make_resumed("jax")})
    return {"recipe": recipe, "tensorflow": on_tensorflow, "jax": on_jax}


def get_parts(results: Results, prefix: str) -> Results:
    """Return the results whose names start with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in results.items()
        if name.startswith(prefix)
    }


def hash_batches(results: Results, names: set[str]) -> list[str]:
    """Return a hash of each of 20 batches."""
    hashes = []
    for step in range(20):
        batch, digest = get_parts(results, f"examples/{step}/"), hashlib.sha256()
        for name in sorted(names & batch.keys()):
            digest.update(f"{name} {batch[name].dtype} {batch[name].shape} ".encode())
            digest.update(batch[name].tobytes())
        hashes.append(digest.hexdigest())
    return hashes


def measure_difference(first: Results, second: Results, prefix: str) -> float:
    """Return the norm of the difference of two groups of variables, relative to that of the first."""
    first, second = get_parts(first, prefix), get_parts(second, prefix)
    assert first and first.keys() == second.keys()
    difference = sum(np.sum((first[name] - np.float64(second[name])) ** 2) for name in first)
    return np.sqrt(difference / sum(np.sum(np.float64(value) ** 2) for value in first.values()))


def test_initial_weights_are_equal(results):
    """They are equal bit for bit, and so is the rest of the state."""
    ours, theirs = (get_parts(results[name]["full"], "0/") for name in ("tensorflow", "jax"))
    assert ours.keys() == theirs.keys() and len(ours) > 100
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def test_batches_are_equal(results):
    """Both engines see the same images, conditions and noise, and drop the same conditions."""
    ours, theirs = results["tensorflow"]["full"], results["jax"]["full"]
    hashes = hash_batches(ours, EXACT)
    assert hashes == hash_batches(theirs, EXACT)
    assert len(set(hashes)) == 20
    dropped = []
    for step in range(20):
        our_batch, their_batch = (get_parts(part, f"examples/{step}/") for part in (ours, theirs))
        assert our_batch.keys() == their_batch.keys()
        for name in ROUNDED:
            np.testing.assert_allclose(our_batch[name], their_batch[name], rtol=0, atol=1e-6)
        (condition, *_) = our_batch.keys() & CONDITIONS
        dropped += [not row.any() for row in our_batch[condition]]
    assert 0.03 < np.mean(dropped) < 0.3  # the rates are 0.1 and 0.15


def test_weights_agree_after_20_steps(results):
    ours, theirs = results["tensorflow"]["full"], results["jax"]["full"]
    tolerance, _ = TOLERANCES[results["recipe"]]
    for group in ("weights/", "average0/"):
        if get_parts(ours, f"20/{group}"):
            assert measure_difference(ours, theirs, f"20/{group}") < tolerance
    theirs_at_20 = get_parts(theirs, "20/weights/")
    for name, value in get_parts(ours, "20/weights/").items():
        np.testing.assert_allclose(theirs_at_20[name], value, rtol=0, atol=1e-4, err_msg=name)
    # The weights have moved far more.
    moved = measure_difference(get_parts(ours, "0/"), get_parts(ours, "20/"), "weights/")
    assert moved > 1000 * tolerance
    np.testing.assert_allclose(ours["metrics/20"], theirs["metrics/20"], rtol=1e-4)


def test_images_agree(results):
    """Both draw the same images, up to 2 of 255."""
    ours, theirs = (results[name]["full"]["images"].astype(int) for name in ("tensorflow", "jax"))
    assert np.std(ours) > 0.5
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_a_run_may_change_its_engine(results, engine):
    """30 steps on the other engine and 30 on this one equal 60 on either."""
    resumed = results[engine]["resumed"]
    other = results["jax" if engine == "tensorflow" else "tensorflow"]["full"]
    restored = get_parts(resumed, "30/")
    for name, value in get_parts(other, "30/").items():
        np.testing.assert_array_equal(restored[name], value, err_msg=name)
    _, tolerance = TOLERANCES[results["recipe"]]
    for full in (results["tensorflow"]["full"], results["jax"]["full"]):
        assert measure_difference(full, resumed, "60/weights/") < tolerance
