"""Updates the training state with summed gradients: clipping, AdamW, averages and loss scale.

Keras' optimizers clip before they sum over replicas, and they cannot skip a step under
MirroredStrategy (keras #18666). The update is therefore implemented here, with TensorFlow's fused
Adam. It has no branches: if a gradient is not finite, its factors are such that weights, moments
and averages do not change.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from t2i_tpu.config import TrainConfig
from t2i_tpu.models.denoiser import variables_by_path
from t2i_tpu.train.state import TrainState

BETA_1, EPSILON = 0.9, 1e-8
LOSS_SCALE_GROWTH_INTERVAL = 2000
# Momentum of the batch norms' moving statistics, as in Keras.
STATISTICS_MOMENTUM = 0.99


def learning_rate(train: TrainConfig, step: tf.Tensor) -> tf.Tensor:
    """Return the learning rate of a step, float32.

    It rises linearly during the warm-up. Then it is constant or follows a cosine to 0 at
    total_steps.
    """
    step = tf.cast(step, tf.float32)
    rate = train.learning_rate * tf.minimum(1.0, (step + 1) / max(1, train.warmup_steps))
    if train.decay == "cosine":
        rate *= 0.5 * (1 + tf.cos(np.pi * tf.minimum(1.0, step / train.total_steps)))
    return rate


def ema_gamma(std: float) -> float:
    """Return the exponent of the power-function average with relative width `std`.

    It is the root of gamma**3 + 7 gamma**2 + (16 - 1/std**2) gamma + 12 - 1/std**2 (Karras et al.,
    2023, equation 126).
    """
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def apply_gradients(
    state: TrainState,
    train: TrainConfig,
    gradients: Sequence[tf.Tensor],
    statistics: dict[str, tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Update the state by one step, in a replica's context.

    Args:
      state: the run's state.
      train: the `train` group of a resolved config.
      gradients: for each weight, the gradient of the scaled loss, summed over replicas.
      statistics: the batch statistics of `Denoiser.call`, averaged over replicas.

    Returns:
      The global norm of the gradients before clipping, and 1.0 if the step was skipped or else 0.0.
    """
    # Unscale and clip the gradients.
    unscale = 1.0 / state.loss_scale
    norm = tf.linalg.global_norm(gradients) * unscale
    finite = tf.math.is_finite(norm)
    factor = unscale * (
        train.clip_norm / tf.maximum(norm, train.clip_norm) if train.clip_norm else 1.0
    )
    factor = tf.where(finite, factor, 0.0)
    gradients = [tf.math.multiply_no_nan(gradient, factor) for gradient in gradients]
    applied = tf.cast(finite, tf.float32)  # 0.0 if the step is skipped

    # Bias correction and averages count only the steps that were not skipped. A skipped step does
    # not change the moments (decay 1, gradient 0), the weights (rate 0) or the averages (share 0).
    count = tf.cast(state.updates, tf.float32) + 1.0
    rate = applied * learning_rate(train, state.step) * state.learning_rate_scale
    decay_1 = tf.where(finite, BETA_1, 1.0)
    decay_2 = tf.where(finite, train.beta_2, 1.0)
    adam = {
        "beta1_power": applied * BETA_1**count,
        "beta2_power": applied * train.beta_2**count,
        "lr": rate,
        "beta1": decay_1,
        "beta2": decay_2,
        "epsilon": EPSILON,
    }
    ema_rates = [
        applied * (1.0 - (1.0 - 1.0 / count) ** (ema_gamma(std) + 1)) for std in train.ema_stds
    ]

    # Update every variable.
    scalars = {
        "adam": adam,
        "weight_decay": rate * train.weight_decay,
        "ema_rates": ema_rates,
        "statistics_share": applied * (1.0 - STATISTICS_MOMENTUM),
        "applied": applied,
    }
    context = tf.distribute.get_replica_context()
    context.merge_call(_update_variables, args=(state, train, gradients, statistics, scalars))
    return norm, 1.0 - applied


def _update_variables(strategy, state, train, gradients, statistics, scalars):
    """Update every device's copy of every variable, in the cross-replica context."""

    def update(variable, function, *args):
        strategy.extended.update(variable, function, args=args, group=False)

    moments = zip(state.weights, gradients, state.first_moments, state.second_moments, strict=True)
    for weight, gradient, m, v in moments:
        if train.weight_decay:
            update(weight, _decay_weight, scalars["weight_decay"])
        update(weight, _apply_adam, m, v, gradient, scalars["adam"])
    moving = variables_by_path(state.denoiser)
    for path, batch in statistics.items():
        update(moving[path], _move_average, batch, scalars["statistics_share"])
    for average, share in zip(state.averages, scalars["ema_rates"], strict=True):
        for copy, weight in zip(average.trainable_variables, state.weights, strict=True):
            update(copy.value, _move_average, weight, share)
        copies = variables_by_path(average)
        for path in statistics:
            update(copies[path], _move_average, moving[path], scalars["applied"])
    update(state.step, _increment, 1)
    update(state.updates, _increment, scalars["applied"])
    update(state.skipped_in_a_row, _count_skipped, scalars["applied"])
    if state.scales_loss:
        update(
            state.loss_scale, _update_loss_scale, state.updates_since_scaling, scalars["applied"]
        )


def _apply_adam(weight, m, v, gradient, adam):
    handles = {"var": weight.handle, "m": m.handle, "v": v.handle}
    tf.raw_ops.ResourceApplyAdam(grad=gradient, **handles, **adam)


def _decay_weight(weight, share):
    weight.assign(weight * (1.0 - share))


def _move_average(average, value, share):
    # A plain product of a share of 0 and a non-finite value would be NaN.
    average.assign_add(tf.math.multiply_no_nan(value - average, share))


def _increment(counter, amount):
    counter.assign_add(tf.cast(amount, counter.dtype))


def _count_skipped(skipped, applied):
    skipped.assign((skipped + 1) * tf.cast(1.0 - applied, skipped.dtype))


def _update_loss_scale(loss_scale, updates_since, applied):
    """Halve the loss scale after an overflow, or double it after many updates without one.

    Source: Micikevicius et al., 2018.
    """
    since = (updates_since + 1) * tf.cast(applied, tf.int64)
    grow = since >= LOSS_SCALE_GROWTH_INTERVAL
    changed = tf.where(grow, loss_scale * 2.0, loss_scale)
    loss_scale.assign(tf.where(applied > 0, changed, tf.maximum(loss_scale * 0.5, 1.0)))
    updates_since.assign(tf.where(grow, tf.zeros_like(since), since))
