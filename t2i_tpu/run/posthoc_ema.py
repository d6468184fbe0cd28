"""Reconstructs averages of the weights that a run did not keep (Karras et al., 2023, section 3.2).

After N updates, a power-function average weights the result of update t in proportion to t**gamma. A
linear combination of the averages in several checkpoints weights the updates by the same combination of
their profiles. Least squares finds the combination whose profile is closest to that of the wanted
average.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint, checkpoint_store
from t2i_tpu.step.optimizer import ema_gamma
from t2i_tpu.step.state import Variables

# Maximum distance of the combination's profile from the wanted one, relative to the norm of the latter.
MAX_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Profile:
    """The profile of a power-function average.

    Attributes:
      updates: the number of updates that are averaged.
      std: the relative standard deviation.
    """

    updates: int
    std: float


def restore_average(
    engine: Engine,
    workdir: str,
    weights: Variables,
    ema_stds: Sequence[float],
    std: float,
    step: int | None = None,
) -> int:
    """Restore an average of a run's weights that its checkpoints do not contain.

    The checkpoints are read one after another, so memory does not depend on their number. Variables that are
    not trained, such as the statistics of batch norms, come from the last checkpoint.

    Args:
      engine: the engine that computes with the weights.
      workdir: local or gs://.
      weights: the variables that receive the average, by their paths.
      ema_stds: the relative standard deviations of the averages in the checkpoints.
      std: the relative standard deviation of the average to restore.
      step: the step at which the average ends, which must have a checkpoint. None means the newest one.

    Returns:
      The step.

    Raises:
      UserError: there is no such checkpoint, or the checkpoints do not determine the average.
    """
    counts = _read_updates(workdir, checkpoint_store.iter_steps(workdir, step))
    steps = list(counts)
    stored = [Profile(count, kept) for count in counts.values() for kept in ema_stds]
    coefficients, error = solve_coefficients(stored, Profile(counts[steps[0]], std))
    if error > MAX_ERROR:
        raise UserError(_describe_misfit(ema_stds, std, steps, error))
    logging.info("average %g: %d checkpoints, error of its profile %.1e", std, len(steps), error)
    table = coefficients.reshape(len(steps), len(ema_stds))
    sums = {path: np.zeros(variable.shape, np.float32) for path, variable in weights.items()}
    for name, row in zip(steps, table, strict=True):
        _add_averages(sums, workdir, name, weights, row, is_last=name == steps[0])
    for path, variable in weights.items():
        engine.assign(variable, sums[path])
    return steps[0]


def solve_coefficients(stored: Sequence[Profile], target: Profile) -> tuple[np.ndarray, float]:
    """Return the linear combination of profiles that is closest to another profile.

    Args:
      stored: the profiles to combine, no two of them equal.
      target: the profile to approximate.

    Returns:
      The coefficients, float64 [len(stored)], whose sum is 1, and the norm of the error relative to the norm
      of the target.
    """
    gammas = np.array([ema_gamma(profile.std) for profile in (*stored, target)])
    ends = np.array([profile.updates for profile in (*stored, target)], np.float64)
    # Normalized inner products: the last row and column belong to the target.
    products = _multiply_profiles(gammas, ends / ends[-1])
    norms = np.sqrt(np.diag(products))
    cosines = products / np.outer(norms, norms)
    solution = np.linalg.lstsq(cosines[:-1, :-1], cosines[:-1, -1], rcond=None)[0]
    coefficients = solution / norms[:-1]
    coefficients /= coefficients.sum()
    difference = np.append(coefficients, -1.0) * norms / norms[-1]
    return coefficients, float(np.sqrt(max(0.0, difference @ cosines @ difference)))


def _multiply_profiles(gammas: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the inner products of the profiles (gamma + 1) / T (t / T)**gamma on 0 < t < T.

    Args:
      gammas: float64 [K], the exponents.
      ends: float64 [K], the ends T.

    Returns:
      float64 [K, K].
    """
    first = np.minimum(ends[:, None], ends)
    powers = (first / ends) ** (gammas + 1)
    scale = np.outer(gammas + 1, gammas + 1) / (gammas[:, None] + gammas + 1)
    return scale * powers * powers.T / first


def _read_updates(workdir: str, steps: Iterable[int]) -> dict[int, int]:
    """Return the number of updates of each checkpoint, newest first, without repetitions and zeros.

    Steps that were skipped do not count as updates.
    """
    variable = tf.Variable(0, dtype=tf.int64, trainable=False)
    counts: dict[int, int] = {}
    for step in steps:
        checkpoint.read_checkpoint({"updates": variable}, workdir, step)
        count = int(variable.numpy())
        if count not in (0, *counts.values()):
            counts[step] = count
    if not counts:
        raise UserError(f"the checkpoints in {workdir!r} contain no update; train longer")
    return counts


def _add_averages(sums, workdir, step, weights, coefficients, is_last):
    """Add the averages in a checkpoint, times their coefficients, to `sums`."""
    names = [f"average{index}" for index in range(len(coefficients))]
    copies = checkpoint.make_copies(dict.fromkeys(names, weights))
    checkpoint.read_checkpoint(copies, workdir, step)
    for path, variable in weights.items():
        if variable.trainable:
            for name, coefficient in zip(names, coefficients, strict=True):
                sums[path] += np.float32(coefficient) * copies[name][path].numpy()
        elif is_last:
            sums[path][...] = copies[names[0]][path].numpy()


def _describe_misfit(ema_stds, std, steps, error) -> str:
    """Return the message for an average that the checkpoints do not determine."""
    names = [f"{kept:g}" for kept in ema_stds]
    plural = "" if len(names) == 1 else "s"
    count = "1 checkpoint" if len(steps) == 1 else f"{len(steps)} checkpoints"
    remedy = "averages on both sides of this one"
    if len(names) == 1:
        remedy = 'two averages, such as config.train.ema_stds="(0.05, 0.1)",'
    return (
        f"--average={std:g}: its reconstruction from the average{plural} {' and '.join(names)} in "
        f"{count} until step {steps[0]} has an error of {error:.0%}, above {MAX_ERROR:.0%}; give "
        f"{' or '.join(names)}, or train a run that keeps {remedy} in eight or more checkpoints, as with "
        f"config.train.keep_every={max(1, steps[0] // 8)}"
    )
