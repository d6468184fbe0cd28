"""Decides which checkpoints of a run are kept."""

import dataclasses
import math

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store, evaluations


@dataclasses.dataclass(frozen=True)
class Retention:
    """A rule for which checkpoints to keep.

    Attributes:
      last: number of newest checkpoints to keep.
      every: keep the checkpoints whose step is a multiple of this; 0 means none.
      best: number of checkpoints with the best value of `metric` to keep.
      metric: "loss", or a figure of the evaluations: a key of `evaluations.FIGURES`.
    """

    last: int
    every: int = 0
    best: int = 0
    metric: str = "loss"

    def list_expired(self, workdir: str) -> list[int]:
        """Return the steps of the checkpoints that may be removed."""
        steps = checkpoint_store.list_steps(workdir)
        ranks = {step: self._rank(workdir, step) for step in steps} if self.best else {}
        best = sorted(ranks, key=ranks.get)[: self.best]
        return [
            step
            for step in steps[self.last :]
            if not (self.every and step % self.every == 0) and step not in best
        ]

    def _rank(self, workdir: str, step: int) -> float:
        """Return a number that is lower for better checkpoints, and infinite if the value is unknown."""
        value = self._read_value(workdir, step)
        if math.isnan(value):
            return math.inf
        return -value if evaluations.FIGURES.get(self.metric) else value

    def _read_value(self, workdir: str, step: int) -> float:
        """Return the value of the metric at a checkpoint, or NaN if it cannot be read."""
        if self.metric != "loss":
            return evaluations.read_figure(workdir, step, self.metric)
        try:
            info = checkpoint_store.read_info(workdir, step)
        except (checkpoint_store.DamagedCheckpoint, UserError, tf.errors.NotFoundError):
            return math.nan
        return info.metrics.get("loss", math.nan)
