"""Reads the scalars that a run logged for TensorBoard, and their times."""

import dataclasses
import math
import posixpath

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

_MARK = ".tfevents."  # part of the name of each event file
_SCALARS = "scalars"  # TensorBoard's name for the plugin that shows scalars


@dataclasses.dataclass(frozen=True)
class Scalar:
    """The values of a scalar in the order of the steps.

    Attributes:
      steps: the step of each value.
      seconds: the time of training until each value, without interruptions.
      values: the values. None of them is NaN or infinite.
    """

    steps: list[int]
    seconds: list[float]
    values: list[float]


def read_scalars(workdir: str) -> dict[str, Scalar]:
    """Return the scalars of a run by name.

    Each start of the run has written an event file. If steps were computed again, only their last values
    are returned, but the time includes that of the first ones.

    Args:
      workdir: local or gs://.

    Raises:
      UserError: the run has not logged anything, or a file cannot be read.
    """
    folder = posixpath.join(workdir, "logs")
    names = [name for name in files.list_names(folder) if _MARK in name]
    logs = [_read_file(posixpath.join(folder, name)) for name in names]
    logs = sorted((log for log in logs if log.points), key=lambda log: log.start)
    if not logs:
        raise UserError(
            f"{workdir!r} has no logs: {folder} contains no scalars; train for at least "
            "config.train.log_every steps, or leave this run out"
        )
    points, earlier = {}, 0.0
    for log in logs:
        for name, step, time, value in log.points:
            kept = points.setdefault(name, [])
            # After an interruption or a rollback, steps are computed again.
            while kept and kept[-1][0] >= step:
                kept.pop()
            kept.append((step, earlier + time - log.start, value))
        earlier += log.end - log.start
    return {name: _to_scalar(rows) for name, rows in points.items()}


@dataclasses.dataclass(frozen=True)
class _Log:
    """An event file.

    Attributes:
      start: time at which it was created, in seconds.
      points: (name, step, time in seconds, value) of each scalar.
    """

    start: float
    points: list[tuple[str, int, float, float]]

    @property
    def end(self) -> float:
        """Time of the last scalar."""
        return max(time for _, _, time, _ in self.points)


def _read_file(path: str) -> _Log:
    """Read an event file. If its end is damaged, the part before that is read."""
    events = EventAccumulator(path, size_guidance={TENSORS: 0})  # 0 keeps all
    try:
        events.Reload()
        start = events.FirstEventTimestamp()
    except ValueError:  # the file has no event
        return _Log(0.0, [])
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    try:
        names = list(events.PluginTagToContent(_SCALARS))
    except KeyError:  # there are no scalars
        names = []
    points = []
    for name in names:
        for event in events.Tensors(name):
            value = float(tf.make_ndarray(event.tensor_proto))
            points.append((name, event.step, event.wall_time, value))
    return _Log(start, points)


def _to_scalar(rows: list[tuple[int, float, float]]) -> Scalar:
    """Return a scalar without the values that are not finite."""
    rows = [row for row in rows if math.isfinite(row[2])]
    return Scalar(*([row[column] for row in rows] for column in range(3)))
