"""What the host says of a run: scalars for TensorBoard, a line or a progress bar for people."""

import math

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu.config import TrainConfig
from t2i_tpu.train.optimizer import learning_rate
from t2i_tpu.train.step import NUM_BANDS


class Log:
    """Metrics between two log lines.

    Attributes:
      latest: the scalars of the latest line.
    """

    def __init__(self, train: TrainConfig):
        self.train, self.seconds_per_step, self.compiled = train, 0.0, False
        self.latest = {}
        self._clear()

    def _clear(self):
        self.metrics, self.waited, self.seconds, self.timed_steps = 0.0, 0.0, 0.0, 0

    def add(self, metrics: np.ndarray, waited: float, seconds: float) -> None:
        """Of one device loop: what it returned, and how long it took."""
        self.metrics = self.metrics + metrics.astype(np.float64)
        if not self.compiled:  # the first loop's time is the compiler's
            self.compiled = True
            return
        self.waited, self.seconds = self.waited + waited, self.seconds + seconds
        self.timed_steps += int(metrics[-1])

    def write(
        self, step: int, scale: float, writer: tf.summary.SummaryWriter, progress: tqdm, tell: bool
    ) -> None:
        """Closes the line of a step; `scale` is that of the learning rate."""
        self.latest = self._take(step, scale)
        with writer.as_default(step=step):
            for name, value in self.latest.items():
                tf.summary.scalar(name, value)
        line = f"loss {self.latest['loss']:.4f}"
        if self.seconds_per_step:  # not known after the first loop, which compiles
            line += f", {self.latest['images_per_second']:.0f} img/s"
        progress.set_postfix_str(line)
        if tell and progress.disable:
            total = self.train.total_steps
            if self.seconds_per_step:
                line += f", waiting for input {self.latest['input_wait_share']:.0%}"
                line += ", {:.0f}:{:02.0f} left".format(
                    *divmod((total - step) * self.seconds_per_step, 60)
                )
            logging.info("step %d/%d: %s", step, total, line)

    def _take(self, step, scale) -> dict[str, float]:
        loss, count = self.metrics[:NUM_BANDS], self.metrics[NUM_BANDS : 2 * NUM_BANDS]
        norm, skipped, steps = self.metrics[2 * NUM_BANDS :]
        if self.timed_steps:
            self.seconds_per_step = self.seconds / self.timed_steps
        rate = (
            self.train.global_batch_size / self.seconds_per_step
            if self.seconds_per_step
            else math.nan
        )
        scalars = {
            "loss": loss.sum() / count.sum(),
            "gradient_norm": norm / max(1, steps - skipped),
            "learning_rate": float(learning_rate(self.train, step)) * scale,
            "images_per_second": rate,
            "input_wait_share": self.waited / self.seconds if self.seconds else 0.0,
            "skipped_steps": skipped,
        }
        for band in range(NUM_BANDS):
            if count[band]:
                low, high = band / NUM_BANDS, (band + 1) / NUM_BANDS
                scalars[f"loss_by_noise_level/{low:.2f}_to_{high:.2f}"] = loss[band] / count[band]
        self._clear()
        return scalars
