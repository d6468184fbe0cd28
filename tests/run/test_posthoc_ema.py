"""Tests the reconstruction of averages of the weights from the averages in several checkpoints."""

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.posthoc_ema import Profile, restore_average, solve_coefficients
from t2i_tpu.sample.trained import load_trained
from t2i_tpu.step.optimizer import ema_gamma
from tests import tiny

# Results of solve_posthoc_coefficients in phema.py of github.com/NVlabs/edm2: the widths that are kept, the
# numbers of updates, the wanted width, and its coefficients.
REFERENCE = [
    (
        ((0.05, 0.1), (1000, 2000, 3000, 4000), 0.07),
        (
            *(1.8701727e-08, -4.5939871e-07, 8.3507393e-05, -5.6804806e-04),
            *(1.0685739e-02, -4.3921236e-02, 4.3456714e-01, 5.9915334e-01),
        ),
    ),
    (
        ((0.05, 0.1), (250, 500, 750, 1000), 0.15),
        (
            *(-5.6203511e-04, 1.9440693e-03, -1.3147866e-02, 3.8019967e-02),
            *(-7.7958372e-02, 2.0040864e-01, -2.6406197e-01, 1.1153576e00),
        ),
    ),
]


def make_profiles(stds, counts):
    return [Profile(count, std) for count in counts for std in stds]


def list_weights(profile, length):
    """Return the weight of each of `length` updates, from the recursion of the training step."""
    weights = np.zeros(length)
    for count in range(1, profile.updates + 1):
        share = 1.0 - (1.0 - 1.0 / count) ** (ema_gamma(profile.std) + 1)
        weights *= 1.0 - share
        weights[count - 1] = share
    return weights


@pytest.mark.parametrize(("case", "expected"), REFERENCE)
def test_coefficients_equal_those_of_the_authors(case, expected):
    stds, counts, std = case
    coefficients, _ = solve_coefficients(make_profiles(stds, counts), Profile(counts[-1], std))
    np.testing.assert_allclose(coefficients, expected, rtol=1e-6)


@pytest.mark.parametrize("std", [0.02, 0.07, 0.15, 0.25])
def test_error_equals_the_error_over_all_updates(std):
    stored, target = make_profiles((0.05, 0.1), (1000, 1700, 2000)), Profile(2000, std)
    coefficients, error = solve_coefficients(stored, target)
    wanted = list_weights(target, 2000)
    table = np.stack([list_weights(profile, 2000) for profile in stored])
    expected = np.linalg.norm(coefficients @ table - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(error, expected, rtol=0.02)
    # The weights themselves have the same least-squares solution.
    best = np.linalg.lstsq(table.T, wanted, rcond=None)[0]
    np.testing.assert_allclose(coefficients, best / best.sum(), atol=0.01)


def test_a_kept_average_is_used_unchanged():
    stored = make_profiles((0.05, 0.1), (500, 1000))
    coefficients, error = solve_coefficients(stored, stored[-2])
    np.testing.assert_allclose(coefficients, [0, 0, 1, 0], atol=1e-9)
    assert error < 1e-6


STDS, WANTED, EVERY = (0.1, 0.2), 0.14, 4


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    """A run that keeps the wanted average as its third, and its workdir with seven checkpoints."""
    config = tiny.make_config(
        squares,
        recipe="baseline",
        model__widths=(8, 8),
        model__attention_levels=(False, True),
        train__ema_stds=(*STDS, WANTED),
        train__steps_per_loop=EVERY,
    )
    run, workdir = tiny.Run(config), tmp_path_factory.mktemp("run")
    workdir_lib.write(str(workdir), config, run.dataset.manifest, str(squares))
    checkpointer = run.make_checkpointer(workdir, keep=9)
    for _ in range(7):
        run.steps(EVERY)
        # As if a step had been skipped: averages count updates, not steps.
        run.assign(run.state.step, run.state.step.numpy() + 1)
        checkpointer.save()
    checkpointer.finish()
    return run, workdir


def restore(trained, **options):
    """Restore an average into a new model. Return its values by path, and the step."""
    run, workdir = trained
    spec = run.state.denoiser.condition_spec
    denoiser = build_denoiser(run.config, 3, spec, "float32")
    weights = {variable.path: variable for variable in denoiser.variables}
    options = {"ema_stds": STDS, "std": WANTED} | options
    step = restore_average(run.engine, str(workdir), weights, **options)
    return {path: variable.numpy() for path, variable in weights.items()}, step


def test_average_that_a_run_did_not_keep_is_reconstructed(trained):
    run, _ = trained
    values, step = restore(trained)
    assert step == run.state.step.numpy() == 35
    kept, wanted = run.state.averages[:2], run.state.averages[2]
    error, difference = 0.0, 0.0
    for path, value in values.items():
        if path in run.state.first_moments:
            error += np.sum((value - wanted[path].numpy()) ** 2)
            difference += min(np.sum((a[path].numpy() - wanted[path].numpy()) ** 2) for a in kept)
        else:  # the statistics of batch norms
            np.testing.assert_array_equal(value, run.state.weights[path].numpy())
    assert error < 0.05**2 * difference


def test_average_can_end_at_an_earlier_checkpoint(trained):
    latest, _ = restore(trained)
    values, step = restore(trained, step=30)
    assert step == 30
    assert any(np.any(values[path] != latest[path]) for path in values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(std=0.01), ["0.01", "averages 0.1 and 0.2", "7 checkpoints", "keep_every"]),
        (dict(ema_stds=(0.1,)), ["average 0.1", "two averages", "0.14"]),
        (dict(step=5, std=0.02), ["1 checkpoint ", "keep_every"]),
        (dict(step=6), ["no checkpoint of step 6"]),
    ],
)
def test_average_that_the_checkpoints_do_not_determine_is_rejected(trained, options, words):
    with pytest.raises(UserError) as error:
        restore(trained, **options)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_load_trained_reconstructs_an_average(trained):
    _, workdir = trained
    model = load_trained(str(workdir), average="0.160")
    assert model.average == "0.16" and model.step == 35


@pytest.mark.parametrize("average", ["0.3", "0", "nan", "wide"])
def test_value_that_is_not_a_width_is_rejected(trained, average):
    _, workdir = trained
    with pytest.raises(UserError, match=f"average={average}: the run keeps 0.1, 0.2, 0.14"):
        load_trained(str(workdir), average=average)
