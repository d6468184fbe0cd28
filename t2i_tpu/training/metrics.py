"""Reports the metrics of training as scalars in TensorBoard, log lines and a progress bar."""

import collections
import math

import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.config import TrainConfig
from t2i_tpu.step.metrics import BAND_NAMES, Metrics
from t2i_tpu.step.optimizer import learning_rate
from t2i_tpu.step.state import State, read_scalar


def average_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Return the scalars to log for the steps since the last log line.

    The loss is averaged over the examples, and the gradient norm over the steps that were not
    skipped. skipped_steps is a count. Every other metric is averaged over all steps.

    Args:
      sums: the metrics of `measure_step`, summed over the steps.
    """
    sums = dict(sums)
    steps, skipped = sums.pop("steps"), sums.pop("skipped_steps")
    losses = {name: sums.pop(f"loss/{name}") for name in BAND_NAMES}
    counts = {name: sums.pop(f"examples/{name}") for name in BAND_NAMES}
    scalars = {
        "loss": sum(losses.values()) / sum(counts.values()),
        "gradient_norm": sums.pop("gradient_norm") / max(1, steps - skipped),
        "skipped_steps": skipped,
    }
    for name in BAND_NAMES:
        if counts[name]:
            scalars[f"loss_by_noise_level/{name}"] = losses[name] / counts[name]
    return scalars | {name: value / steps for name, value in sums.items()}


class MetricsLog:
    """Collects metrics between two log lines and reports them.

    Attributes:
      latest: the scalars of the latest log line.
    """

    def __init__(self, train: TrainConfig):
        self.train, self.latest = train, {}
        self._seconds_per_step, self._has_compiled = 0.0, False
        self._reset()

    def _reset(self):
        self._sums = collections.defaultdict(float)
        self._waited, self._seconds, self._timed_steps = 0.0, 0.0, 0

    def add(self, metrics: Metrics, waited: float, seconds: float) -> None:
        """Add one device loop.

        Args:
          metrics: the metrics of `measure_step`, summed over the steps.
          waited: number of seconds that the loop waited for input.
          seconds: number of seconds that the loop took.
        """
        for name, value in metrics.items():
            self._sums[name] += value
        if not self._has_compiled:  # most of the first loop's time is compilation
            self._has_compiled = True
            return
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        self._timed_steps += int(metrics["steps"])

    def summarize(self, state: State) -> dict[str, float]:
        """Return the metrics that a checkpoint stores; {} before the first log line."""
        if not self.latest:
            return {}
        skipped = read_scalar(state.skipped_in_a_row)
        return {"loss": self.latest["loss"], "skipped_in_a_row": skipped}

    def write(
        self,
        step: int,
        learning_rate_scale: float,
        writer: tf.summary.SummaryWriter,
        progress: tqdm,
        is_chief: bool,
    ) -> None:
        """Report the metrics since the last call.

        Args:
          step: number of steps done.
          learning_rate_scale: see `State`.
          writer: writes the scalars for TensorBoard.
          progress: bar that shows the loss and the speed. If it is disabled, they are logged.
          is_chief: whether this host logs.
        """
        self.latest = self._summarize(step, learning_rate_scale)
        with writer.as_default(step=step):
            for name, value in self.latest.items():
                tf.summary.scalar(name, value)
        line = f"loss {self.latest['loss']:.4f}"
        # The speed is unknown after the first loop, which includes compilation.
        if self._seconds_per_step:
            line += f", {self.latest['images_per_second']:.0f} img/s"
        progress.set_postfix_str(line)
        if is_chief and progress.disable:
            self._log_line(step, line)

    def _log_line(self, step, line):
        """Log a line, with the share of time spent waiting for input and the time left."""
        total = self.train.total_steps
        if self._seconds_per_step:
            minutes, seconds = divmod((total - step) * self._seconds_per_step, 60)
            line += f", waiting for input {self.latest['input_wait_share']:.0%}"
            line += f", {minutes:.0f}:{seconds:02.0f} left"
        logging.info("step %d/%d: %s", step, total, line)

    def _summarize(self, step, learning_rate_scale) -> dict[str, float]:
        """Return the scalars to log, and start collecting from zero."""
        if self._timed_steps:
            self._seconds_per_step = self._seconds / self._timed_steps
        rate = math.nan
        if self._seconds_per_step:
            rate = self.train.global_batch_size / self._seconds_per_step
        # The latest step is number `step - 1`, because steps are counted from 0.
        latest_rate = float(learning_rate(self.train, step - 1)) * learning_rate_scale
        scalars = average_metrics(self._sums) | {
            "learning_rate": latest_rate,
            "images_per_second": rate,
            "input_wait_share": self._waited / self._seconds if self._seconds else 0.0,
        }
        self._reset()
        return scalars
