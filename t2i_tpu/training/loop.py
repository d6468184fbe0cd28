"""The host's training loop: run steps on the device, then log, preview, checkpoint and stop."""

import contextlib
import posixpath
import sys
import time

import numpy as np
from absl import logging
from tqdm import tqdm

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.locate import locate
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.monitor import make_monitor
from t2i_tpu.models.denoiser import find_conditioner
from t2i_tpu.process.fast_exit import EXIT_STOPPED
from t2i_tpu.run import checkpoint_store, doctor, evaluations
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.retention import Retention
from t2i_tpu.run.rollbacks import Rollbacks
from t2i_tpu.run.stop import Stop
from t2i_tpu.run.watchdog import Watchdog
from t2i_tpu.sample.preview import Preview
from t2i_tpu.step.state import read_scalar
from t2i_tpu.storage import access
from t2i_tpu.storage.lock import Lock, NoLock
from t2i_tpu.training.agreement import check_config, check_values
from t2i_tpu.training.event_files import EventFiles
from t2i_tpu.training.finish import check_final_loss, is_finished
from t2i_tpu.training.metrics import MetricsLog
from t2i_tpu.training.nonfinite import find_first_nonfinite, has_diverged
from t2i_tpu.training.reports import Reports
from t2i_tpu.training.trainer import Trainer, build_trainer


def train(
    config: Config,
    workdir: str,
    strategy_name: str = "auto",
    on_nonfinite: str = "stop",
    watchdog_minutes: float = 10.0,
) -> int:
    """Train the model of a config, or resume its training if the workdir holds an unfinished run.

    Args:
      config: resolved or not.
      workdir: a folder, local or gs://.
      strategy_name: one of `config.STRATEGIES`.
      on_nonfinite: "stop" ends the run after config.train.max_skipped consecutive steps with
        non-finite gradients, and "rollback" returns to an earlier checkpoint.
      watchdog_minutes: number of minutes without a step after which the log says what the run is
        waiting for, or 0 for never.

    Returns:
      The exit code: 0 if all steps are done, EXIT_STOPPED if the run was stopped.

    Raises:
      UserError: the run cannot start, and nothing in the workdir has been changed; or it cannot
        continue.
    """
    # Check everything that can be checked before a model is built.
    config = config_lib.resolve(config)
    find_conditioner(config)
    engine = make_engine(strategy_name)
    with engine.translate_lost_processes():
        check_config(engine, config)
    engine.check(config)
    dataset = _open_dataset(config, engine)
    workdir_lib.check(workdir, config, dataset.manifest)
    # A finished run is reported even if the workdir is read-only.
    if is_finished(config, workdir):
        return 0
    is_chief = engine.process == 0
    if is_chief:
        access.check_writable(workdir)
    with translate_data_errors(dataset):
        preview, monitor = Preview(config.preview, dataset), make_monitor(config, dataset)

    with contextlib.ExitStack() as stack:
        # Lock the workdir, build the model and restore it.
        lock = stack.enter_context(Lock(workdir) if is_chief else NoLock())
        stack.enter_context(engine.translate_lost_processes())
        trainer = build_trainer(config, engine, dataset.manifest)
        stack.enter_context(
            translate_data_errors(dataset, trainer.is_waiting_for_input, trainer.list_shards_in_use)
        )
        event_files = EventFiles(posixpath.join(workdir, "logs"), is_chief)
        reports = Reports(trainer, workdir, preview, monitor, event_files, is_chief)
        run = _Run(trainer, workdir, dataset, reports, lock, is_chief)
        if is_chief:
            doctor.check_run(config, workdir, run.checkpointer.count_bytes())
            lock.check()  # by now it is visible if another process started at the same moment
            workdir_lib.write(workdir, config, dataset.manifest, dataset.folder)
        stop = stack.enter_context(Stop(engine))
        watchdog = stack.enter_context(Watchdog(watchdog_minutes, trainer.is_waiting_for_input))
        return run.execute(stop, watchdog, rolls_back=on_nonfinite == "rollback")


def _open_dataset(config: Config, engine: Engine) -> Dataset:
    """Open the data set of a config, and check that its streams fit the batch and the hosts."""
    dataset = open_dataset(
        locate(config.data.source),
        config.model.conditioning,
        config.data.image_size,
        config.data.on_damage,
    )
    check_batch_divides(
        config.train.global_batch_size,
        dataset.manifest.num_streams(),
        engine.num_input_hosts,
    )
    return dataset


class _Run:
    """A run in progress. Only the chief writes to the workdir."""

    def __init__(
        self,
        trainer: Trainer,
        workdir: str,
        dataset: Dataset,
        reports: Reports,
        lock: Lock | NoLock,
        is_chief: bool,
    ):
        self.trainer, self.workdir, self.dataset = trainer, workdir, dataset
        self.reports, self.lock, self.is_chief = reports, lock, is_chief
        self.state, self.event_files = trainer.state, reports.event_files
        train = trainer.config.train
        retention = Retention(
            train.keep_checkpoints, train.keep_every, train.keep_best, train.best_metric
        )
        self.checkpointer = Checkpointer(
            trainer.engine,
            workdir,
            self.state.get_saved(),
            retention,
            lock.check,
            self.event_files.copy,
        )
        self.start = self.checkpointer.restore()
        remedy = "use a --workdir that all workers see"
        check_values(trainer.engine, {"the step to start at": self.start}, remedy)
        self.rollbacks = Rollbacks(workdir)
        self._set_learning_rate_scale()

    def execute(self, stop: Stop, watchdog: Watchdog, rolls_back: bool) -> int:
        """Train until all steps are done or the run is stopped; return the exit code."""
        train, total = self.trainer.config.train, self.trainer.config.train.total_steps
        step, reason, log = self.start, None, MetricsLog(train)
        self._log_start()
        progress = tqdm(
            total=total,
            initial=step,
            unit="step",
            disable=not (self.is_chief and sys.stderr.isatty()),
            dynamic_ncols=True,
        )
        iterator = self.trainer.make_iterator(self.dataset, step)
        with self.event_files, contextlib.closing(self.checkpointer), progress:
            with watchdog.doing("an evaluation"):
                self.reports.evaluate_if_missing(step)
            while step < total and not reason:
                # Run steps on the device.
                count = self._count_steps(step)
                metrics, waited, seconds = self._advance(iterator, step, count)
                log.add(metrics, waited, seconds)
                step += count
                watchdog.step()
                progress.update(count)
                # Roll back if the gradients stay non-finite, or are so at the end.
                final = metrics if rolls_back and step == total else {}
                if has_diverged(self.state, train.max_skipped, final):
                    step = self._roll_back(step, rolls_back)
                    iterator = self.trainer.make_iterator(self.dataset, step)
                    log = MetricsLog(train)
                    progress.reset(total)
                    progress.update(step)
                    continue
                reason = stop.agree_on_reason()
                self._report(step, reason, log, progress, watchdog)
            with watchdog.doing("the last checkpoint's write"):
                self.checkpointer.finish()
        if reason and step < total:
            logging.info("stopped at step %d by %s; run the same command to resume", step, reason)
            return EXIT_STOPPED
        check_final_loss(log.summarize(self.state), self.workdir)
        logging.info("done: %d steps in %s", total, self.workdir)
        return 0

    def _log_start(self):
        config = self.trainer.config
        logging.info(
            "%s step %d of %d: %d examples, %.1fM parameters, %d replica(s), %s, XLA %s",
            "resuming at" if self.start else "starting at",
            self.start,
            config.train.total_steps,
            self.dataset.manifest.num_examples("train"),
            self.trainer.count_parameters() / 1e6,
            self.trainer.engine.num_replicas,
            self.trainer.dtype_policy,
            "on" if self.trainer.jit_compile else "off",
        )

    def _count_steps(self, step):
        """Return the number of steps that the device can run before something else is due."""
        train = self.trainer.config.train
        intervals = (train.log_every, train.preview_every, train.checkpoint_every)
        due = [every - step % every for every in (*intervals, train.evaluate_every) if every]
        return min(train.steps_per_loop, train.total_steps - step, *due)

    def _report(self, step, reason, log, progress, watchdog):
        """Log metrics, draw a preview, save a checkpoint and evaluate the model if due after a step."""
        train = self.trainer.config.train
        is_last = step == train.total_steps
        if step % train.log_every == 0 or is_last:
            scale = self.rollbacks.learning_rate_scale
            log.write(step, scale, self.event_files.writer, progress, self.is_chief)
        if step % train.preview_every == 0 or is_last:
            with watchdog.doing("a preview"):
                self.reports.draw_preview(step)
        if step % train.checkpoint_every == 0 or is_last or reason:
            with watchdog.doing("the previous checkpoint's write"):
                self._save(log)
        # If the run is being stopped, it evaluates the model when it is resumed.
        if evaluations.is_due(train, step) and (is_last or not reason):
            with watchdog.doing("an evaluation"):
                self.reports.evaluate(step)

    def _advance(self, iterator, step, count):
        """Run `count` steps; return their metrics, the seconds of input waits and the total seconds."""
        begin = time.perf_counter()
        metrics, waited = self.trainer.loop.run(iterator, count)
        seconds = time.perf_counter() - begin
        if (done := read_scalar(self.state.step)) != step + count:
            raise RuntimeError(
                f"the device has done {done} steps, but the host has counted "
                f"{step + count}; this is a bug in t2i_tpu"
            )
        if self.lock.lost:
            raise self.lock.lost
        return metrics, waited, seconds

    def _roll_back(self, step, rolls_back):
        """Restore a checkpoint that precedes the non-finite gradients, and return its step.

        Raises:
          UserError: rollbacks are turned off, or there is no such checkpoint.
        """
        # Find the first non-finite value.
        skipped = read_scalar(self.state.skipped_in_a_row)
        cause = find_first_nonfinite(self.trainer, self.dataset, step - 1)
        count = f"the gradients were not finite in {skipped} consecutive steps"
        problem = f"{count if skipped else 'the loss was not finite'} up to {step}: {cause}"
        if not rolls_back:
            raise UserError(
                f"{problem}; no checkpoint contains such values; use --on_nonfinite=rollback to "
                "resume from an earlier one, or a lower config.train.learning_rate in another --workdir"
            )
        self.checkpointer.wait()
        target = self.rollbacks.find_target(self.workdir, step - skipped) if self.is_chief else 0
        (target,) = self.trainer.engine.sum_over_processes([target])
        if not target:
            raise UserError(
                f"{problem}; there is no earlier checkpoint to return to; use a lower "
                "config.train.learning_rate in another --workdir"
            )
        # Restore it with a lower learning rate.
        self.rollbacks.add(step, target, write=self.is_chief)
        scale = self.rollbacks.learning_rate_scale
        logging.warning(
            "%s; returning to step %d at %g times the learning rate", problem, target, scale
        )
        if self.is_chief:
            for newer in checkpoint_store.list_steps(self.workdir):
                if newer > target:
                    checkpoint_store.remove(self.workdir, newer)
            evaluations.remove_after(self.workdir, target)
        self._set_learning_rate_scale()
        return self.checkpointer.restore(before=target + 1)

    def _set_learning_rate_scale(self):
        scale = self.rollbacks.learning_rate_scale
        self.trainer.engine.assign(self.state.learning_rate_scale, np.float32(scale))

    def _save(self, log):
        self.event_files.writer.flush()  # the checkpointer copies what was written
        self.checkpointer.save(log.summarize(self.state))
