"""The host's loop around the device's: steps, then log, preview, checkpoint, stop."""

import contextlib
import math
import posixpath
import sys
import time

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import check_batch_divides, open_dataset, translate_data_errors
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store, doctor, hosts
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import Checkpointer
from t2i_tpu.run.lock import Lock
from t2i_tpu.run.stop import Stop
from t2i_tpu.run.watchdog import Watchdog
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.pictures import save_picture
from t2i_tpu.sample.preview import Preview
from t2i_tpu.storage import access
from t2i_tpu.train import nonfinite
from t2i_tpu.train.metrics import Log
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import make_device_loop, make_replica_step

EXIT_STOPPED = (
    75  # EX_TEMPFAIL: stopped from outside with everything saved; start the command again
)


def train(
    config: Config,
    workdir: str,
    strategy_name: str = "auto",
    on_nonfinite: str = "stop",  # after config.train.max_skipped skipped steps; or rollback
    watchdog_minutes: float = 10.0,  # without a step until it is told; 0 = never
) -> int:
    """Trains a config into a workdir, going on where it stopped; returns the exit code.

    Raises:
      UserError: before anything in the workdir is touched; or the run cannot go on.
    """
    config = config_lib.resolve(config)
    strategy = strategy_lib.make_strategy(strategy_name)
    strategy_lib.per_replica_batch_size(strategy, config.train.global_batch_size)
    dataset = open_dataset(
        locate(config.data.source),
        config.model.conditioning,
        config.data.image_size,
        config.data.on_damage,
    )
    check_batch_divides(
        config.train.global_batch_size,
        dataset.manifest.num_streams(),
        strategy_lib.num_input_hosts(strategy),
    )
    workdir_lib.check(workdir, config, dataset.manifest)
    if _is_finished(config, workdir):  # to be told so, the workdir need not be writable
        return 0
    is_chief = strategy_lib.host_index(strategy)[0] == 0
    if is_chief:
        access.check_writable(workdir)
    with translate_data_errors(dataset):
        preview = Preview(config.preview, dataset)

    with contextlib.ExitStack() as held:
        lock = held.enter_context(Lock(workdir)) if is_chief else None
        held.enter_context(translate_data_errors(dataset))
        held.enter_context(hosts.translate_host_errors(strategy))
        run = _Run(config, workdir, strategy, dataset, preview, lock)
        if lock:
            doctor.check_run(config, workdir, run.state)
            lock.check()  # whoever came at the same moment knows by now
            workdir_lib.write(workdir, config, dataset.manifest, dataset.folder)
        stop = held.enter_context(Stop(strategy))
        watchdog = held.enter_context(Watchdog(watchdog_minutes, run.waits_for_input))
        return run.until_done(stop, watchdog, rolls_back=on_nonfinite == "rollback")


def _is_finished(config, workdir):
    total = config.train.total_steps
    if max(checkpoint_store.list_steps(workdir), default=0) < total:
        return False
    if next(checkpoint_store.iter_intact(workdir)).step < total:
        return False
    logging.info("finished: %s holds all %d steps; see its previews/", workdir, total)
    return True


class _Run:
    """A run under way; `lock` is None on hosts that write nothing."""

    def __init__(self, config, workdir, strategy, dataset, preview, lock):
        self.config, self.workdir, self.strategy = config, workdir, strategy
        self.dataset, self.preview, self.lock = dataset, preview, lock
        train = config.train
        self.policy = strategy_lib.choose_dtype_policy(train, strategy)
        self.jit_compile = strategy_lib.should_use_xla(train, strategy)
        self.batch_size = strategy_lib.per_replica_batch_size(strategy, train.global_batch_size)
        self.state = TrainState(config, dataset.manifest, self.policy, strategy)
        keep = checkpoint_store.Retention(train.keep_checkpoints, train.keep_every, train.keep_best)
        check_ours = lock.check if lock else lambda: None
        self.checkpointer = Checkpointer(workdir, self.state, keep, check_ours)
        self.start = self.checkpointer.restore()
        self.rollbacks = nonfinite.Rollbacks(workdir)
        self.state.learning_rate_scale.assign(self.rollbacks.learning_rate_scale)
        self.waiting = tf.Variable(False, trainable=False)
        self.device_loop = make_device_loop(
            strategy, make_replica_step(config, self.state, self.jit_compile), self.waiting
        )
        self.generator = Generator(
            strategy, self.state.sampled, config.sample, jit_compile=self.jit_compile
        )
        logs = posixpath.join(workdir, "logs")
        self.writer = (
            tf.summary.create_file_writer(logs) if lock else tf.summary.create_noop_writer()
        )

    def waits_for_input(self) -> bool:
        return bool(self.waiting.numpy())

    def until_done(self, stop: Stop, watchdog: Watchdog, rolls_back: bool) -> int:
        train, total = self.config.train, self.config.train.total_steps
        step, reason, log = self.start, None, Log(train)
        self._tell_start()
        progress = tqdm(
            total=total,
            initial=step,
            unit="step",
            disable=not (self.lock and sys.stderr.isatty()),
            dynamic_ncols=True,
        )
        iterator = self._batches(step)
        with contextlib.closing(self.checkpointer), progress:
            while step < total and not reason:
                due = [
                    every - step % every
                    for every in (train.log_every, train.preview_every, train.checkpoint_every)
                ]
                count = min(train.steps_per_loop, total - step, *due)
                log.add(*self._advance(iterator, step, count))
                step += count
                watchdog.step()
                progress.update(count)
                if self.state.skipped_in_a_row.numpy() >= train.max_skipped:
                    step = self._go_back(step, rolls_back)
                    iterator, log = self._batches(step), Log(train)
                    progress.reset(total)
                    progress.update(step)
                    continue
                reason = stop.reason()
                if step % train.log_every == 0 or step == total:
                    scale = self.rollbacks.learning_rate_scale
                    log.write(step, scale, self.writer, progress, tell=bool(self.lock))
                if step % train.preview_every == 0 or step == total:
                    with watchdog.doing("a preview"):
                        self._preview(step)
                if step % train.checkpoint_every == 0 or step == total or reason:
                    with watchdog.doing("the checkpoint write before"):
                        self._save(log)
            with watchdog.doing("the last checkpoint write"):
                self.checkpointer.finish()
        if reason and step < total:
            logging.info(
                "stopped at step %d by %s; run the same command again to go on", step, reason
            )
            return EXIT_STOPPED
        logging.info("done: %d steps in %s", total, self.workdir)
        return 0

    def _tell_start(self):
        logging.info(
            "%s step %d of %d: %d examples, %.1fM parameters, %d replica(s), %s, XLA %s",
            "resuming at" if self.start else "starting at",
            self.start,
            self.config.train.total_steps,
            self.dataset.manifest.num_examples("train"),
            sum(math.prod(weight.shape) for weight in self.state.weights) / 1e6,
            self.strategy.num_replicas_in_sync,
            self.policy,
            "on" if self.jit_compile else "off",
        )

    def _batches(self, start):
        def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return self._host_batches(start, context.input_pipeline_id, context.num_input_pipelines)

        return iter(self.strategy.distribute_datasets_from_function(batches))

    def _host_batches(self, start, host, num_hosts):
        train = self.config.train
        return self.dataset.batches(
            self.config.seed, train.global_batch_size, self.batch_size, start, host, num_hosts
        )

    def _advance(self, iterator, step, count):
        begin = time.perf_counter()
        metrics, waited = self.device_loop(iterator, tf.constant(count))
        metrics = metrics.numpy()
        seconds = time.perf_counter() - begin
        if int(self.state.step.numpy()) != step + count:
            raise RuntimeError(
                f"the device is at step {self.state.step.numpy()}, the host at {step + count}"
            )
        if self.lock and self.lock.lost:
            raise self.lock.lost
        return metrics, float(waited), seconds

    def _go_back(self, step, rolls_back):
        """Back to the newest checkpoint from before the trouble, or UserError."""
        skipped = int(self.state.skipped_in_a_row.numpy())
        host, num_hosts = strategy_lib.host_index(self.strategy)
        batches = self._host_batches(step - 1, host, num_hosts)
        batches = batches.take(self.strategy.num_replicas_in_sync // num_hosts)
        where = nonfinite.located(self.config, self.state, batches, step - 1)
        told = f"no finite gradients in {skipped} steps up to {step}: {where}"
        if not rolls_back:
            raise UserError(
                f"{told}; nothing that is not finite was saved; use --on_nonfinite=rollback, or a "
                "lower config.train.learning_rate in another --workdir"
            )
        self.checkpointer.wait()
        to = self.rollbacks.target(self.workdir, step - skipped) if self.lock else 0
        (to,) = hosts.sum_over_hosts(self.strategy, [to])
        if not to:
            raise UserError(
                f"{told}; there is no checkpoint from before to go back to: use a lower "
                "config.train.learning_rate in another --workdir"
            )
        self.rollbacks.add(step, to, write=bool(self.lock))
        scale = self.rollbacks.learning_rate_scale
        logging.warning("%s; back to step %d at %g of the learning rate", told, to, scale)
        if self.lock:
            for newer in checkpoint_store.list_steps(self.workdir):
                if newer > to:
                    checkpoint_store.remove(self.workdir, newer)
        self.state.learning_rate_scale.assign(scale)
        return self.checkpointer.restore(before=to + 1)

    def _preview(self, step):
        picture = self.preview.draw(self.generator)
        if not self.lock:
            return
        try:
            path = posixpath.join(self.workdir, "previews", f"step_{step:08d}.png")
            save_picture(picture, path)
        except UserError as error:  # a full disk: the weights are worth more
            logging.warning("%s", error)
        with self.writer.as_default(step=step):
            tf.summary.image("preview", np.asarray(picture)[None])

    def _save(self, log):
        if self.lock:
            self.checkpointer.save({"loss": log.latest["loss"]} if log.latest else {})
        self.writer.flush()
