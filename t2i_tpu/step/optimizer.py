"""Updates the state with the gradients of a step: clipping, AdamW, averages and loss scale.

Keras' optimizers clip before they sum over replicas, and they cannot skip a step under
MirroredStrategy (keras #18666). The update is therefore implemented here. It has no branches: if a
gradient is not finite, its factors are such that weights, moments and averages do not change.
"""

from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from t2i_tpu.config import TrainConfig
from t2i_tpu.step.state import State

BETA_1, EPSILON = 0.9, 1e-8
LOSS_SCALE_GROWTH_INTERVAL = 2000
# Momentum of the batch norms' moving statistics, as in Keras.
STATISTICS_MOMENTUM = 0.99


def learning_rate(train: TrainConfig, step):
    """Return the learning rate of a step, float32.

    It rises linearly during the warm-up. Then it is constant or follows a cosine to 0 at
    total_steps.
    """
    step = ops.cast(step, "float32")
    rate = train.learning_rate * ops.minimum(1.0, (step + 1.0) / max(1, train.warmup_steps))
    if train.decay == "cosine":
        rate *= 0.5 * (1.0 + ops.cos(np.pi * ops.minimum(1.0, step / train.total_steps)))
    return rate


def ema_gamma(std: float) -> float:
    """Return the exponent of the power-function average with relative width `std`.

    It is the root of gamma**3 + 7 gamma**2 + (16 - 1/std**2) gamma + 12 - 1/std**2 (Karras et al.,
    2023, equation 126).
    """
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def prepare_update(
    state: State, train: TrainConfig, gradients: Sequence
) -> tuple[list, dict[str, object]]:
    """Unscale and clip the gradients of a step, and compute the factors of the update.

    Args:
      state: the run's state.
      train: the `train` group of a resolved config.
      gradients: for each trained weight, the gradient of the scaled loss of the entire batch.

    Returns:
      The gradients to apply, all finite, and a dict of float32 scalars for `apply_update`. Among them
      are "norm", the global norm of the gradients before clipping, and "applied", 1.0, or 0.0 if the
      gradients are not finite.
    """
    # Unscale and clip the gradients.
    unscale = 1.0 / ops.convert_to_tensor(state.loss_scale)
    squares = [ops.sum(ops.square(gradient)) for gradient in gradients]
    norm = ops.sqrt(ops.sum(ops.stack(squares))) * unscale
    finite = ops.isfinite(norm)
    factor = unscale * (
        train.clip_norm / ops.maximum(norm, train.clip_norm) if train.clip_norm else 1.0
    )
    gradients = [ops.where(finite, gradient * factor, 0.0) for gradient in gradients]
    applied = ops.cast(finite, "float32")

    # Bias correction and averages count only the steps that were not skipped. A skipped step does
    # not change the moments (decay 1, gradient 0), the weights (rate 0) or the averages (share 0).
    count = ops.cast(state.updates, "float32") + 1.0
    rate = applied * learning_rate(train, state.step) * state.learning_rate_scale
    return gradients, {
        "norm": norm,
        "applied": applied,
        "rate": rate,
        "decay_1": ops.where(finite, BETA_1, 1.0),
        "decay_2": ops.where(finite, train.beta_2, 1.0),
        "power_1": applied * BETA_1**count,
        "power_2": applied * train.beta_2**count,
        "ema_rates": [
            applied * (1.0 - (1.0 - 1.0 / count) ** (ema_gamma(std) + 1)) for std in train.ema_stds
        ],
    }


def apply_adam(weight, first_moment, second_moment, gradient, factors) -> None:
    """Update a weight and its moments by Adam (Kingma and Ba, 2015, in the form at the end of section 2).

    Args:
      weight, first_moment, second_moment: variables of one shape.
      gradient: of the same shape.
      factors: the scalars of `prepare_update`.
    """
    first = first_moment + (1.0 - factors["decay_1"]) * (gradient - first_moment)
    second = second_moment + (1.0 - factors["decay_2"]) * (ops.square(gradient) - second_moment)
    correction = ops.sqrt(1.0 - factors["power_2"]) / (1.0 - factors["power_1"])
    step = factors["rate"] * correction * first / (ops.sqrt(second) + EPSILON)
    first_moment.assign(first)
    second_moment.assign(second)
    weight.assign(weight - step)


def apply_update(
    state: State,
    train: TrainConfig,
    gradients: Sequence,
    statistics: dict[str, object],
    factors: dict[str, object],
    apply_adam: Callable = apply_adam,
) -> None:
    """Update every variable of the state by one step.

    Args:
      state: the run's state.
      train: the `train` group of a resolved config.
      gradients: from `prepare_update`.
      statistics: the batch statistics of `Denoiser.call`, of the entire batch.
      factors: from `prepare_update`.
      apply_adam: the function above, or a faster one that computes the same.
    """
    applied = factors["applied"]
    # Update the weights and their moments.
    for (path, first), gradient in zip(state.first_moments.items(), gradients, strict=True):
        weight = state.weights[path]
        if train.weight_decay:
            weight.assign(weight * (1.0 - factors["rate"] * train.weight_decay))
        apply_adam(weight, first, state.second_moments[path], gradient, factors)
    for path, batch in statistics.items():
        # In a skipped step, the batch's statistics may not be finite, and 0 times infinity is NaN.
        batch = ops.where(applied > 0, batch, 0.0)
        _move_average(state.weights[path], batch, applied * (1.0 - STATISTICS_MOMENTUM))
    # Update the averages.
    for average, share in zip(state.averages, factors["ema_rates"], strict=True):
        for path in state.first_moments:
            _move_average(average[path], state.weights[path], share)
        for path in statistics:
            _move_average(average[path], state.weights[path], applied)
    # Update the counters and the loss scale.
    state.step.assign(state.step + 1)
    state.updates.assign(state.updates + ops.cast(applied, state.updates.dtype))
    skipped = ops.cast(1.0 - applied, state.skipped_in_a_row.dtype)
    state.skipped_in_a_row.assign((state.skipped_in_a_row + 1) * skipped)
    if state.scales_loss:
        _update_loss_scale(state.loss_scale, state.updates_since_scaling, applied)


def _move_average(average, value, share):
    average.assign(average + (value - average) * share)


def _update_loss_scale(loss_scale, updates_since, applied):
    """Halve the loss scale after an overflow, or double it after many updates without one.

    Source: Micikevicius et al., 2018.
    """
    since = (updates_since + 1) * ops.cast(applied, updates_since.dtype)
    grow = since >= LOSS_SCALE_GROWTH_INTERVAL
    current = ops.convert_to_tensor(loss_scale)
    changed = ops.where(grow, current * 2.0, current)
    loss_scale.assign(ops.where(applied > 0, changed, ops.maximum(current * 0.5, 1.0)))
    updates_since.assign(ops.where(grow, ops.zeros_like(since), since))
