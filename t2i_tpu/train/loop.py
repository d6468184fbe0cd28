"""The host's loop around the device's: steps, then log, preview, checkpoint, stop."""

import math
import posixpath
import signal
import sys
import time

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import check_divides, damage_told, open_dataset
from t2i_tpu.train import doctor, storage
from t2i_tpu.train import strategy as strategy_lib
from t2i_tpu.train import workdir as workdir_lib
from t2i_tpu.train.checkpoint import Checkpointer
from t2i_tpu.train.generator import Generator
from t2i_tpu.train.optimizer import learning_rate
from t2i_tpu.train.pictures import save_picture
from t2i_tpu.train.preview import Preview
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import NUM_BANDS, make_device_loop, make_replica_step

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by a signal with everything saved; start the command again


def train(config: Config, workdir: str, strategy_name: str = "auto") -> int:
    """Trains a config into a workdir, going on where it stopped; returns the exit code.

    Raises:
      UserError: before anything in the workdir is touched.
    """
    config = config_lib.resolve(config)
    strategy = strategy_lib.make_strategy(strategy_name)
    batch_size = strategy_lib.per_replica_batch_size(strategy, config.train.global_batch_size)
    dataset = open_dataset(
        locate(config.data.source), config.model.conditioning, config.data.image_size
    )
    host, num_hosts = strategy_lib.host_index(strategy)
    check_divides(config.train.global_batch_size, dataset.manifest.num_streams(), num_hosts)
    if host == 0:
        storage.probe(workdir)
    workdir_lib.check(workdir, config, dataset.manifest)
    with damage_told(dataset):
        preview = Preview(config.preview, dataset)

    policy = strategy_lib.dtype_policy(config.train)
    state = TrainState(config, dataset.manifest, policy, strategy)
    checkpointer = Checkpointer(workdir, state, config.train.keep_checkpoints)
    start = checkpointer.restore()
    if start >= config.train.total_steps:
        logging.info("finished: %s holds all %d steps; see its previews/", workdir, start)
        return 0
    if host == 0:
        doctor.check_run(config, workdir, state)
    run = _Run(config, workdir, strategy, state, checkpointer, preview, is_chief=host == 0)
    if run.is_chief:
        workdir_lib.write(workdir, config, dataset.manifest)
    logging.info(
        "%s step %d of %d: %d examples, %.1fM parameters, %d replica(s), %s, XLA %s",
        "resuming at" if start else "starting at",
        start,
        config.train.total_steps,
        dataset.manifest.num_examples("train"),
        sum(math.prod(weight.shape) for weight in state.weights) / 1e6,
        strategy.num_replicas_in_sync,
        policy,
        "on" if run.jit_compile else "off",
    )

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return dataset.batches(
            config.seed,
            config.train.global_batch_size,
            batch_size,
            start,
            context.input_pipeline_id,
            context.num_input_pipelines,
        )

    with damage_told(dataset):
        return run.until_done(iter(strategy.distribute_datasets_from_function(batches)), start)


class _Run:
    """A run under way."""

    def __init__(self, config, workdir, strategy, state, checkpointer, preview, is_chief):
        self.config, self.workdir, self.state = config, workdir, state
        self.checkpointer, self.preview = checkpointer, preview
        self.is_chief = is_chief
        self.jit_compile = strategy_lib.use_xla(config.train)
        self.device_loop = make_device_loop(
            strategy, make_replica_step(config, state, self.jit_compile)
        )
        self.generator = Generator(
            strategy, state.sampled, config.sample, jit_compile=self.jit_compile
        )
        logs = posixpath.join(workdir, "logs")
        self.writer = (
            tf.summary.create_file_writer(logs)
            if self.is_chief
            else tf.summary.create_noop_writer()
        )
        self.stop_signal = None
        self.progress = None

    def until_done(self, iterator, step) -> int:
        train, total = self.config.train, self.config.train.total_steps
        interactive = self.is_chief and sys.stderr.isatty()
        self.progress = tqdm(
            total=total, initial=step, unit="step", disable=not interactive, dynamic_ncols=True
        )
        log = _Log(self.config)
        with _SignalsCaught(self), self.progress:
            while step < total and not self.stop_signal:
                due = [
                    every - step % every
                    for every in (train.log_every, train.preview_every, train.checkpoint_every)
                ]
                count = min(train.steps_per_loop, total - step, *due)
                log.add(*self._advance(iterator, step, count))
                step += count
                self.progress.update(count)
                if step % train.log_every == 0 or step == total:
                    self._log(log, step)
                if step % train.preview_every == 0 or step == total:
                    self._preview(step)
                if step % train.checkpoint_every == 0 or step == total or self.stop_signal:
                    if self.is_chief:
                        self.checkpointer.save()
                    self.writer.flush()
        if self.stop_signal and step < total:
            logging.info(
                "stopped at step %d by %s; run the same command again to go on",
                step,
                self.stop_signal,
            )
            return EXIT_STOPPED
        logging.info("done: %d steps in %s", total, self.workdir)
        return 0

    def _advance(self, iterator, step, count):
        begin = time.perf_counter()
        metrics, waited = self.device_loop(iterator, tf.constant(count))
        metrics = metrics.numpy()
        seconds = time.perf_counter() - begin
        if int(self.state.step.numpy()) != step + count:
            raise RuntimeError(
                f"the device is at step {self.state.step.numpy()}, the host at {step + count}"
            )
        return metrics, float(waited), seconds

    def _log(self, log, step):
        scalars = log.take(step)
        with self.writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        line = f"loss {scalars['loss']:.4f}"
        if log.seconds_per_step:  # not known after the first loop, which compiles
            line += f", {scalars['images_per_second']:.0f} img/s"
        self.progress.set_postfix_str(line)
        if self.is_chief and self.progress.disable:
            total = self.config.train.total_steps
            if log.seconds_per_step:
                line += f", waiting for input {scalars['input_wait_share']:.0%}"
                line += ", {:.0f}:{:02.0f} left".format(
                    *divmod((total - step) * log.seconds_per_step, 60)
                )
            logging.info("step %d/%d: %s", step, total, line)

    def _preview(self, step):
        picture = self.preview.draw(self.generator)
        if not self.is_chief:
            return
        save_picture(picture, posixpath.join(self.workdir, "previews", f"step_{step:08d}.png"))
        with self.writer.as_default(step=step):
            tf.summary.image("preview", np.asarray(picture)[None])


class _Log:
    """Metrics between two log lines."""

    def __init__(self, config):
        self.config, self.seconds_per_step, self.compiled = config, 0.0, False
        self._clear()

    def _clear(self):
        self.metrics, self.waited, self.seconds, self.timed_steps = 0.0, 0.0, 0.0, 0

    def add(self, metrics, waited, seconds):
        self.metrics = self.metrics + metrics.astype(np.float64)
        if not self.compiled:  # the first loop's time is the compiler's
            self.compiled = True
            return
        self.waited, self.seconds = self.waited + waited, self.seconds + seconds
        self.timed_steps += int(metrics[-1])

    def take(self, step) -> dict[str, float]:
        loss, count = self.metrics[:NUM_BANDS], self.metrics[NUM_BANDS : 2 * NUM_BANDS]
        norm, skipped, steps = self.metrics[2 * NUM_BANDS :]
        if self.timed_steps:
            self.seconds_per_step = self.seconds / self.timed_steps
        rate = (
            self.config.train.global_batch_size / self.seconds_per_step
            if self.seconds_per_step
            else math.nan
        )
        scalars = {
            "loss": loss.sum() / count.sum(),
            "gradient_norm": norm / max(1, steps - skipped),
            "learning_rate": float(learning_rate(self.config.train, step)),
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


class _SignalsCaught:
    """SIGTERM and the first Ctrl-C let the loop in hand finish and save; the second Ctrl-C stops at once."""

    def __init__(self, run):
        self.run, self.old = run, {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.old[number] = signal.signal(number, self._stop)

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _stop(self, number, _frame):
        if self.run.stop_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.run.stop_signal = signal.Signals(number).name
