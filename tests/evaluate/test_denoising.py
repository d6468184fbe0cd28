"""The denoising loss, compared with its definition."""

import numpy as np
import pytest

from t2i_tpu.data.conditions import stack_conditions
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.denoising import DenoisingLoss
from t2i_tpu.random import Purpose, make_keys, normal
from tests import tiny


@pytest.fixture(scope="module")
def run(squares):
    run = tiny.Run(tiny.make_config(squares))
    run.steps(5)
    return run


def measure(run, count, batch_size, levels=(0.2, 0.7)):
    trainer, state = run.trainer, run.state
    loss = DenoisingLoss(
        run.engine, state.denoiser, state.sampling_weights, trainer.jit_compile, batch_size
    )
    examples = run.dataset.examples("train", count)
    images = np.stack([example["image"] for example in examples])
    return loss.measure(images, stack_conditions(examples), levels), images


def test_errors_do_not_depend_on_the_batch_size(run):
    errors, _ = measure(run, 7, 3)
    np.testing.assert_allclose(errors, measure(run, 7, 7)[0], rtol=1e-5)


def test_errors_follow_from_the_definition(squares):
    """On the linear path, a noisy image is (1 - n) image + n noise."""
    run = tiny.Run(tiny.make_config(squares, train__ema_stds=()))
    run.steps(10)
    errors, images = measure(run, 4, 4, levels=(0.2, 0.7))
    examples = run.dataset.examples("train", 4)
    clean = np.float32(images / 127.5 - 1)
    for number, level in enumerate((0.2, 0.7)):
        keys = make_keys(0, Purpose.EVALUATION, number, np.arange(4))
        noisy = (1 - level) * clean + level * np.asarray(normal(keys, clean.shape[1:]))
        levels = np.full(4, level, np.float32)
        denoised = run.state.denoiser.denoise(noisy, levels, stack_conditions(examples))
        expected = np.mean((np.asarray(denoised) - clean) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(errors[:, number], expected, rtol=1e-4)


def test_training_lowers_the_error(squares):
    run = tiny.Run(tiny.make_config(squares, train__total_steps=60, train__learning_rate=3e-3))
    before, _ = measure(run, 8, 8)
    run.steps(60)
    after, _ = measure(run, 8, 8)
    assert after.mean() < 0.7 * before.mean()


def test_loss_that_is_not_finite_is_an_error(squares):
    run = tiny.Run(tiny.make_config(squares))
    for weight in run.state.sampling_weights.values():
        run.engine.assign(weight, np.full(weight.shape, np.nan, np.float32))
    with pytest.raises(UserError, match="the denoising loss is infinite or NaN"):
        measure(run, 4, 4)
