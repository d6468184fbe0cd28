"""Saving a run's variables while it goes on, and restoring them strictly: each must be there."""

import contextlib
import math
import threading
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser, variables_by_path
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint_store import Retention
from t2i_tpu.storage import files


class Checkpointer:
    """The checkpoints of a workdir, on disk or gs://.

    A save copies the variables into the host's memory, and a thread writes them from there. There
    is at most one write at a time: a save waits for the one before it.
    """

    def __init__(
        self,
        workdir: str,
        trackables: dict[str, object],
        retention: Retention,
        check_owner: Callable[[], None] = lambda: None,
    ):
        """Args:
        workdir: local or gs://.
        trackables: the variables to save, or dicts of variables, by stable names. One of them
          is "step", and one is "skipped_in_a_row".
        retention: says which checkpoints to keep.
        check_owner: raises UserError if another process has taken over the workdir.
        """
        self.workdir, self.trackables = workdir, trackables
        self.retention, self.check_owner = retention, check_owner
        self._copies, self._writing, self._failure = {}, None, None

    def restore(self, before: float = math.inf) -> int:
        """Restores the newest checkpoint that is whole, if there is one, and returns the state's
        step. Only those of a step below `before` are looked at.

        Raises:
          UserError: none is whole, or it does not fit the config.
        """
        version = next(checkpoint_store.iter_intact(self.workdir, before), None)
        if version:
            checkpoint = tf.train.Checkpoint(**self.trackables)
            _read(checkpoint, self.workdir, version.step, "assert_consumed")
        return int(self.trackables["step"].numpy())

    def save(self, metrics: dict[str, float] | None = None) -> None:
        """Copies the state; it is written meanwhile. A write that fails is a warning: the next
        save may do better, and `finish` tells if the last did not."""
        self.wait()
        self._copy()
        step = int(self._copies["step"].numpy())
        self._writing = threading.Thread(
            target=self._write, args=(step, metrics or {}), daemon=True
        )
        self._writing.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._writing:
            self._writing.join()
            self._writing = None

    close = wait

    def finish(self) -> None:
        """Raises UserError if the latest checkpoint could not be written."""
        self.wait()
        if self._failure:
            raise UserError(self._failure)

    def count_bytes(self) -> int:
        """Return the size of a checkpoint's variables."""
        return sum(
            variable.shape.num_elements() * variable.dtype.size
            for variable in tf.nest.flatten(self.trackables)
        )

    def _copy(self):
        trackables = self.trackables
        if not self._copies:
            with tf.device("CPU:0"):
                self._copies = {
                    name: {key: _copy_of(part) for key, part in value.items()}
                    if isinstance(value, dict)
                    else _copy_of(value)
                    for name, value in trackables.items()
                }
        for (_, copy), (_, variable) in zip(_flat(self._copies), _flat(trackables), strict=True):
            copy.assign(variable.read_value())

    def _write(self, step, metrics):
        path = checkpoint_store.get_prefix(self.workdir, step)
        self._failure = None
        try:
            self._check_finite()
            self.check_owner()
            tf.io.gfile.makedirs(checkpoint_store.get_folder(self.workdir))
            checkpoint_store.remove(self.workdir, step)  # a damaged one of the same step
            tf.train.Checkpoint(**self._copies).write(path)
            self.check_owner()
            checkpoint_store.commit(self.workdir, step, metrics)
            checkpoint_store.remove_unfinished(self.workdir)
            if self._copies["skipped_in_a_row"].numpy() == 0:  # else one from before may be wanted
                for old in self.retention.expired_steps(self.workdir):
                    checkpoint_store.remove(self.workdir, old)
        except UserError as error:
            self._failed(path, str(error))
        except tf.errors.OpError as error:
            self._failed(path, files.explain_error(self.workdir, error))
            with contextlib.suppress(tf.errors.OpError):
                checkpoint_store.remove_unfinished(self.workdir)  # a full disk has use for the room

    def _failed(self, path, reason):
        self._failure = f"checkpoint {path} could not be written: {reason}"
        logging.warning("%s", self._failure)

    def _check_finite(self):
        for name, copy in _flat(self._copies):
            if copy.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(copy))):
                raise UserError(f"{name} is not finite")


def restore_weights(workdir: str, denoiser: Denoiser, name: str) -> int:
    """Restores one model of a run, "weights" or "average0", from a workdir's newest checkpoint that
    is whole, and returns its step.

    Raises:
      UserError: there is no checkpoint, or it does not fit the config.
    """
    version = next(checkpoint_store.iter_intact(workdir), None)
    if not version:
        raise UserError(f"{workdir!r} holds no checkpoint; train first, or check --workdir")
    checkpoint = tf.train.Checkpoint(**{name: variables_by_path(denoiser)})
    _read(checkpoint, workdir, version.step, "assert_existing_objects_matched")
    return version.step


# Its bytes are as they were written; that gs:// refuses or is away is another matter.
_MISMATCHES = (
    *(AssertionError, IndexError, RuntimeError, ValueError),
    *(tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.DataLossError),
)


def _read(checkpoint, workdir, step, check):
    path = checkpoint_store.get_prefix(workdir, step)
    try:
        status = checkpoint.read(path)
        getattr(status, check)()
        status.expect_partial()
    except _MISMATCHES as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint {path} does not fit this config and version: {reason}; use those that it "
            "was written with, or another --workdir"
        ) from error


def _copy_of(variable):
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _flat(trackables):
    """(name, variable) of each."""
    for name, value in trackables.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", part) for key, part in value.items())
        else:
            yield name, value
