"""Saves a run's variables in the background and restores them strictly: every variable must match."""

import contextlib
import math
import threading
from collections.abc import Callable

import keras
import tensorflow as tf
from absl import logging

from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.run import checkpoint_store
from t2i_tpu.run.retention import Retention
from t2i_tpu.step.state import Variables, iter_variables, read_scalar
from t2i_tpu.storage import files

# Checkpoints are written from and read into TensorFlow variables in the host's memory. Every engine uses
# the same checkpoints, in which counters are int64.
Copies = dict[str, tf.Variable | dict[str, tf.Variable]]


class Checkpointer:
    """Writes and restores the checkpoints of a workdir, on disk or gs://.

    A save copies the variables into the host's memory, and a thread writes them from there. There
    is at most one write at a time: a save waits for the previous one. Only process 0 writes.
    """

    def __init__(
        self,
        engine: Engine,
        workdir: str,
        variables: dict[str, keras.Variable | Variables],
        retention: Retention,
        check_owner: Callable[[], None] = lambda: None,
        copy_logs: Callable[[], None] = lambda: None,
    ):
        """Create a checkpointer. Nothing is read or written yet.

        Args:
          engine: the engine that computes with the variables.
          workdir: local or gs://.
          variables: the variables to save, or dicts of variables, by names that never change. They
            must include "step" and "skipped_in_a_row".
          retention: determines which checkpoints are kept.
          check_owner: a function that raises UserError if another process has taken over the
            workdir.
          copy_logs: a function that is called in the background after each checkpoint.
        """
        self.copy_logs = copy_logs
        self.engine, self.workdir, self.variables = engine, workdir, variables
        self.retention, self.check_owner = retention, check_owner
        self._copies: Copies = {}
        self._writer, self._failure = None, None

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
            copies = self._get_copies()
            read_checkpoint(copies, self.workdir, info.step, "assert_consumed")
            _assign_copies(self.engine, copies, self.variables)
        return read_scalar(self.variables["step"])

    def save(self, metrics: dict[str, float] | None = None) -> None:
        """Copy the state and start writing the copy in the background.

        If there are several processes, all must call this method, because a variable may be split over
        their devices. If the write fails, a warning is logged, because the next save may succeed. `finish` raises
        an error if the last write failed.

        Args:
          metrics: the scalars of the latest log line, stored with the checkpoint.
        """
        self.wait()
        if self.engine.process:
            for _, variable in iter_variables(self.variables):
                self.engine.read(variable)
            return
        variables, copies = iter_variables(self.variables), iter_variables(self._get_copies())
        for (_, variable), (_, copy) in zip(variables, copies, strict=True):
            copy.assign(tf.cast(self.engine.read(variable), copy.dtype))
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
            math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
            for _, variable in iter_variables(self.variables)
        )

    def _get_copies(self) -> Copies:
        """Return the copies of the variables, which the first call allocates."""
        if not self._copies:
            self._copies = make_copies(self.variables)
        return self._copies

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
        for name, copy in iter_variables(self._copies):
            if copy.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(copy))):
                raise UserError(f"{name} is not finite")


def restore_weights(
    engine: Engine, workdir: str, weights: Variables, name: str, step: int | None = None
) -> int:
    """Restore one model of a run from a checkpoint.

    Args:
      engine: the engine that computes with the weights.
      workdir: local or gs://.
      weights: the variables that receive the weights, by their paths.
      name: "weights" for the trained weights, or "average0" for their first average.
      step: the step of the checkpoint, or None for the newest one that is intact.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it does not match the config.
    """
    step = next(checkpoint_store.iter_steps(workdir, step))
    variables = {name: weights}
    copies = make_copies(variables)
    read_checkpoint(copies, workdir, step)
    _assign_copies(engine, copies, variables)
    return step


# Errors that TensorFlow raises if an intact checkpoint does not match the model. Storage errors, such
# as denied access to gs://, are handled elsewhere.
_MISMATCHES = (
    AssertionError, IndexError, RuntimeError, ValueError,
    tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.DataLossError,
)  # fmt: skip


def read_checkpoint(
    copies: Copies, workdir: str, step: int, check: str = "assert_existing_objects_matched"
) -> None:
    """Read a checkpoint into TensorFlow variables.

    Args:
      copies: the variables.
      workdir: local or gs://.
      step: the step of the checkpoint to read.
      check: name of the method of TensorFlow's load status that asserts the match.

    Raises:
      UserError: the checkpoint does not match the variables.
    """
    path = checkpoint_store.get_prefix(workdir, step)
    try:
        with checkpoint_store.provide_prefix(workdir, step) as prefix:
            status = tf.train.Checkpoint(**copies).read(prefix)
        getattr(status, check)()
        status.expect_partial()
    except _MISMATCHES as error:
        raise UserError(
            f"checkpoint {path} does not match this config and this version of t2i_tpu ({get_first_line(error)}); "
            "use the config and version that it was written with, or another --workdir"
        ) from error


def make_copies(variables: dict[str, keras.Variable | Variables]) -> Copies:
    """Return a TensorFlow variable in the host's memory for each variable."""

    def make(variable):
        is_float = variable.dtype.startswith("float")
        dtype = variable.dtype if is_float else "int64"
        return tf.Variable(tf.zeros(variable.shape, dtype), trainable=False)

    with tf.device("CPU:0"):
        return {
            name: {path: make(variable) for path, variable in value.items()}
            if isinstance(value, dict)
            else make(value)
            for name, value in variables.items()
        }


def _assign_copies(
    engine: Engine, copies: Copies, variables: dict[str, keras.Variable | Variables]
) -> None:
    """Set each variable to the value of its copy."""
    pairs = zip(iter_variables(variables), iter_variables(copies), strict=True)
    for (_, variable), (_, copy) in pairs:
        engine.assign(variable, copy.numpy())
