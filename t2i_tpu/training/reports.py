"""Draws a run's previews and evaluates its model. If one of them fails, the run continues."""

import posixpath
import time

import numpy as np
import tensorflow as tf
from absl import logging

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.denoising import DenoisingLoss
from t2i_tpu.evaluate.monitor import Monitor
from t2i_tpu.run import evaluations
from t2i_tpu.sample.picture_files import save_picture
from t2i_tpu.sample.preview import Preview
from t2i_tpu.training.event_files import EventFiles
from t2i_tpu.training.trainer import Trainer


class Reports:
    """Makes the previews and evaluations of a run.

    If there are several processes, all must call its methods. Only the chief writes.
    """

    def __init__(
        self,
        trainer: Trainer,
        workdir: str,
        preview: Preview,
        monitor: Monitor | None,
        event_files: EventFiles,
        is_chief: bool,
    ):
        self.trainer, self.workdir = trainer, workdir
        self.preview, self.monitor = preview, monitor
        self.event_files, self.is_chief = event_files, is_chief
        if monitor:
            weights = trainer.state.sampling_weights
            self.loss = DenoisingLoss(
                trainer.engine, trainer.state.denoiser, weights, trainer.jit_compile
            )

    def draw_preview(self, step: int) -> None:
        """Draw a preview, and write it to the workdir and for TensorBoard."""
        try:
            picture = self.preview.draw(self.trainer.generator)
            if self.is_chief:
                path = posixpath.join(self.workdir, "previews", f"step_{step:08d}.png")
                save_picture(picture, path)
        except UserError as error:  # a full disk, for example, must not end the run
            logging.warning("no preview of step %d: %s", step, error)
            return
        with self.event_files.writer.as_default(step=step):
            tf.summary.image("preview", np.asarray(picture)[None])

    def evaluate(self, step: int) -> None:
        """Evaluate the model, and write the figures to the workdir, to TensorBoard and to the log."""
        begin = time.perf_counter()
        try:
            evaluation = self.monitor.measure(self.trainer.generator, self.loss)
            if self.is_chief:
                evaluations.write(self.workdir, step, evaluation)
        except UserError as error:
            logging.warning("no evaluation of step %d: %s", step, error)
            return
        with self.event_files.writer.as_default(step=step):
            for name, value in evaluation["figures"].items():
                tf.summary.scalar(f"evaluation/{name}", value)
        if self.is_chief:
            figures = [f"{name} {value:.4g}" for name, value in evaluation["figures"].items()]
            seconds = time.perf_counter() - begin
            logging.info("evaluated step %d in %.0f s: %s", step, seconds, ", ".join(figures))

    def evaluate_if_missing(self, step: int) -> None:
        """Evaluate the model that a run resumes with, if an evaluation is due but was not made."""
        train, missing = self.trainer.config.train, False
        if not evaluations.is_due(train, step):
            return
        if self.is_chief:
            missing = evaluations.is_missing(train, self.workdir, step)
        (missing,) = self.trainer.engine.sum_over_processes([int(missing)])
        if missing:
            self.evaluate(step)
