"""Saves a run's variables in the background and restores them strictly: every variable must match."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging

from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.models.denoiser import Denoiser, variables_by_path
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.checkpoint_store import Retention
from t2i_tpu.storage import files


class Checkpointer:
    """Writes and restores the checkpoints of a workdir, on disk or gs://.

    A save copies the variables into the host's memory, and a thread writes them from there. There
    is at most one write at a time: a save waits for the previous one.
    """

    def __init__(
        self,
        workdir: str,
        trackables: dict[str, object],
        retention: Retention,
        check_owner: Callable[[], None] = lambda: None,
        copy_logs: Callable[[], None] = lambda: None,
    ):
        """Create a checkpointer. Nothing is read or written yet.

        Args:
          workdir: local or gs://.
          trackables: the variables to save, or dicts of variables, by names that never change. They
            must include "step" and "skipped_in_a_row".
          retention: determines which checkpoints are kept.
          check_owner: a function that raises UserError if another process has taken over the
            workdir.
          copy_logs: a function that is called in the background after each checkpoint.
        """
        self.copy_logs = copy_logs
        self.workdir, self.trackables = workdir, trackables
        self.retention, self.check_owner = retention, check_owner
        self._copies, self._writer, self._failure = {}, None, None

    def restore(self, before: float = math.inf) -> int:
        """Restore the newest intact checkpoint, if there is one.

        Args:
          before: only checkpoints of steps below this one are considered.

        Returns:
          The step of the state, whether or not a checkpoint was restored.

        Raises:
          UserError: there are checkpoints but none is intact, one has another format, or the newest
            intact one does not match the config.
        """
        info = next(checkpoint_store.iter_intact(self.workdir, before), None)
        if info:
            checkpoint = tf.train.Checkpoint(**self.trackables)
            _read_checkpoint(checkpoint, self.workdir, info.step, "assert_consumed")
        return int(self.trackables["step"].numpy())

    def save(self, metrics: dict[str, float] | None = None) -> None:
        """Copy the state and start writing the copy in the background.

        If the write fails, a warning is logged, because the next save may succeed. `finish` raises
        an error if the last write failed.

        Args:
          metrics: the scalars of the latest log line, stored with the checkpoint.
        """
        self.wait()
        self._copy_variables()
        step = int(self._copies["step"].numpy())
        self._writer = threading.Thread(
            target=self._write_all, args=(step, metrics or {}), daemon=True
        )
        self._writer.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writer:
            self._writer.join()
            self._writer = None

    def close(self) -> None:
        """Do the same as `wait`. contextlib.closing calls this method."""
        self.wait()

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
          UserError: the last write failed.
        """
        self.wait()
        if self._failure:
            raise UserError(self._failure)

    def count_bytes(self) -> int:
        """Return the size of a checkpoint's variables in bytes."""
        return sum(
            variable.shape.num_elements() * variable.dtype.size
            for variable in tf.nest.flatten(self.trackables)
        )

    def _copy_variables(self):
        """Copy the variables into host memory, which the first call allocates."""
        if not self._copies:
            with tf.device("CPU:0"):
                self._copies = tf.nest.map_structure(_make_copy, self.trackables)
        copies, variables = _iter_variables(self._copies), _iter_variables(self.trackables)
        for (_, copy), (_, variable) in zip(copies, variables, strict=True):
            copy.assign(variable.read_value())

    def _write_all(self, step, metrics):
        self._write(step, metrics)
        self.copy_logs()

    def _write(self, step, metrics):
        """Write the copied variables as a checkpoint, and then remove expired checkpoints.

        This runs in the writer thread, so an error is recorded in `_failure` instead of raised.
        """
        path = checkpoint_store.get_prefix(self.workdir, step)
        self._failure = None
        try:
            self._check_finite()
            # Write the checkpoint. It does not count until its info file exists.
            self.check_owner()
            tf.io.gfile.makedirs(checkpoint_store.get_folder(self.workdir))
            checkpoint_store.remove(self.workdir, step)  # it may exist, but damaged
            tf.train.Checkpoint(**self._copies).write(path)
            self.check_owner()
            checkpoint_store.commit(self.workdir, step, metrics)
            # Remove files that are no longer needed. While steps are being skipped, no checkpoint is
            # removed, because a rollback may need an old one.
            checkpoint_store.remove_unfinished(self.workdir)
            if self._copies["skipped_in_a_row"].numpy() == 0:
                for expired in self.retention.list_expired(self.workdir):
                    checkpoint_store.remove(self.workdir, expired)
        except UserError as error:
            self._record_failure(path, str(error))
        except tf.errors.OpError as error:
            self._record_failure(path, files.explain_error(self.workdir, error))
            # The disk may be full, so free the space that the unfinished checkpoint takes.
            with contextlib.suppress(tf.errors.OpError):
                checkpoint_store.remove_unfinished(self.workdir)
        except Exception as error:  # in a thread, it would otherwise pass for success
            self._record_failure(path, f"{type(error).__name__}: {error}")

    def _record_failure(self, path, reason):
        self._failure = f"checkpoint {path} could not be written: {reason}"
        logging.warning("%s", self._failure)

    def _check_finite(self):
        for name, copy in _iter_variables(self._copies):
            if copy.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(copy))):
                raise UserError(f"{name} is not finite")


def restore_weights(workdir: str, denoiser: Denoiser, name: str) -> int:
    """Restore one model of a run from the newest intact checkpoint.

    Args:
      workdir: local or gs://.
      denoiser: the model that receives the weights.
      name: "weights" for the trained weights, or "average0" for their first average.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: there is no intact checkpoint, or it does not match the config.
    """
    info = next(checkpoint_store.iter_intact(workdir), None)
    if not info:
        raise UserError(f"{workdir!r} holds no checkpoint; train first, or check --workdir")
    checkpoint = tf.train.Checkpoint(**{name: variables_by_path(denoiser)})
    _read_checkpoint(checkpoint, workdir, info.step, "assert_existing_objects_matched")
    return info.step


# Errors that TensorFlow raises if an intact checkpoint does not match the model. Storage errors, such
# as denied access to gs://, are handled elsewhere.
_MISMATCHES = (
    AssertionError, IndexError, RuntimeError, ValueError,
    tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.DataLossError,
)  # fmt: skip


def _read_checkpoint(checkpoint: tf.train.Checkpoint, workdir: str, step: int, check: str) -> None:
    """Read a checkpoint into variables.

    Args:
      checkpoint: holds the variables.
      workdir: local or gs://.
      step: the step of the checkpoint to read.
      check: name of the method of TensorFlow's load status that asserts the match.

    Raises:
      UserError: the checkpoint does not match the variables.
    """
    path = checkpoint_store.get_prefix(workdir, step)
    try:
        with checkpoint_store.provide_prefix(workdir, step) as prefix:
            status = checkpoint.read(prefix)
        getattr(status, check)()
        status.expect_partial()
    except _MISMATCHES as error:
        raise UserError(
            f"checkpoint {path} does not match this config and this version of t2i_tpu ({get_first_line(error)}); "
            "use the config and version that it was written with, or another --workdir"
        ) from error


def _make_copy(variable):
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _iter_variables(trackables: dict[str, object]) -> Iterator[tuple[str, tf.Variable]]:
    """Yield each variable with its name."""
    for name, value in trackables.items():
        if isinstance(value, dict):
            for key, variable in value.items():
                yield f"{name}/{key}", variable
        else:
            yield name, value
