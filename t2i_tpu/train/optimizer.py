"""The update once the gradients are summed: clipping, AdamW, averages and the loss scale.

Keras' optimizers clip before they sum over replicas, and they cannot skip a step under
MirroredStrategy (keras #18666). So the update is written here, around TensorFlow's fused Adam. It
has no branch: after a non-finite gradient it runs with factors that leave everything as it is.
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

    It warms up linearly and then is constant or follows a cosine to 0 at total_steps.
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
      state: of the run.
      train: the `train` group of a resolved config.
      gradients: of the loss times the loss scale, summed over replicas, for each weight.
      statistics: the batch statistics of `Denoiser.call`, averaged over replicas.

    Returns:
      The gradient's global norm before clipping, and 1.0 if the step was skipped or 0.0 if not.
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
    good = tf.cast(finite, tf.float32)  # 1.0 or 0.0

    # Bias correction and averages count the steps that were not skipped. A skipped step leaves the
    # moments (decay 1, gradient 0), the weights (rate 0) and the averages (share 0) as they are.
    count = tf.cast(state.updates, tf.float32) + 1.0
    rate = good * learning_rate(train, state.step) * state.learning_rate_scale
    decay_1 = tf.where(finite, BETA_1, 1.0)
    decay_2 = tf.where(finite, train.beta_2, 1.0)
    adam = {
        "beta1_power": good * BETA_1**count,
        "beta2_power": good * train.beta_2**count,
        "lr": rate,
        "beta1": decay_1,
        "beta2": decay_2,
        "epsilon": EPSILON,
    }
    ema_rates = [
        good * (1.0 - (1.0 - 1.0 / count) ** (ema_gamma(std) + 1)) for std in train.ema_stds
    ]

    # Update every variable.
    scalars = {
        "adam": adam,
        "weight_decay": rate * train.weight_decay,
        "ema_rates": ema_rates,
        "statistics_share": good * (1.0 - STATISTICS_MOMENTUM),
        "good": good,
    }
    context = tf.distribute.get_replica_context()
    context.merge_call(_update, args=(state, train, gradients, statistics, scalars))
    return norm, 1.0 - good


def _update(strategy, state, train, gradients, statistics, scalars):
    """Update every device's copy of every variable, in the cross-replica context."""

    def update(variable, function, *args):
        strategy.extended.update(variable, function, args=args, group=False)

    moments = zip(state.weights, gradients, state.first_moments, state.second_moments, strict=True)
    for weight, gradient, m, v in moments:
        if train.weight_decay:
            update(weight, _decay, scalars["weight_decay"])
        update(weight, _adam, m, v, gradient, scalars["adam"])
    moving = variables_by_path(state.denoiser)
    for path, batch in statistics.items():
        update(moving[path], _move_average, batch, scalars["statistics_share"])
    for average, share in zip(state.averages, scalars["ema_rates"], strict=True):
        for copy, weight in zip(average.trainable_variables, state.weights, strict=True):
            update(copy.value, _move_average, weight, share)
        copies = variables_by_path(average)
        for path in statistics:
            update(copies[path], _move_average, moving[path], scalars["good"])
    update(state.step, _add, 1)
    update(state.updates, _add, scalars["good"])
    update(state.skipped_in_a_row, _count_skipped, scalars["good"])
    if state.scales_loss:
        update(state.loss_scale, _rescale, state.updates_since_scaling, scalars["good"])


def _adam(weight, m, v, gradient, adam):
    handles = {"var": weight.handle, "m": m.handle, "v": v.handle}
    tf.raw_ops.ResourceApplyAdam(grad=gradient, **handles, **adam)


def _decay(weight, share):
    weight.assign(weight * (1.0 - share))


def _move_average(average, value, share):
    # With a plain product, a share of 0 and a non-finite value would damage the average.
    average.assign_add(tf.math.multiply_no_nan(value - average, share))


def _add(counter, amount):
    counter.assign_add(tf.cast(amount, counter.dtype))


def _count_skipped(skipped, good):
    skipped.assign((skipped + 1) * tf.cast(1.0 - good, skipped.dtype))


def _rescale(loss_scale, updates_since, good):
    """Halve the scale after an overflow, or double it after a long time without one.

    Source: Micikevicius et al., 2018.
    """
    since = (updates_since + 1) * tf.cast(good, tf.int64)
    grow = since >= LOSS_SCALE_GROWTH_INTERVAL
    changed = tf.where(grow, loss_scale * 2.0, loss_scale)
    loss_scale.assign(tf.where(good > 0, changed, tf.maximum(loss_scale * 0.5, 1.0)))
    updates_since.assign(tf.where(grow, tf.zeros_like(since), since))
