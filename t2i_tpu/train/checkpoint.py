"""Saving and restoring a run's variables, strictly: every one must be there and match."""

import posixpath

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.train.state import TrainState, by_path


class Checkpointer:
    """The checkpoints of a workdir, on disk or gs://; keeps the newest `keep`."""

    def __init__(self, workdir: str, state: TrainState, keep: int):
        self.state = state
        checkpoint = tf.train.Checkpoint(**state.trackables())
        # Made by asking, so that a restore can be strict.
        assert checkpoint.save_counter is not None
        folder = checkpoint_folder(workdir)
        self.manager = tf.train.CheckpointManager(
            checkpoint, folder, max_to_keep=keep, checkpoint_name="step"
        )

    def restore(self) -> int:
        """Restores the newest checkpoint, if there is one, and returns the step to go on from."""
        latest = _newest(self.manager.directory)
        if latest:
            _read(self.manager.checkpoint, latest, "assert_consumed")
        return int(self.state.step.numpy())

    def save(self) -> None:
        self.manager.save(checkpoint_number=int(self.state.step.numpy()), check_interval=False)


def restore_weights(workdir: str, denoiser: Denoiser, name: str) -> int:
    """Restores one model of a run, "weights" or "average0", from a workdir's newest checkpoint and
    returns its step.

    Raises:
      UserError: there is no checkpoint, or it does not fit the config.
    """
    latest = _newest(checkpoint_folder(workdir))
    if not latest:
        raise UserError(f"{workdir!r} holds no checkpoint; train first, or check --workdir")
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(step=step, **{name: by_path(denoiser)})
    _read(checkpoint, latest, "assert_existing_objects_matched").expect_partial()
    return int(step.numpy())


def checkpoint_folder(workdir: str) -> str:
    return posixpath.join(workdir, "checkpoints")


def _newest(folder):
    """The newest checkpoint whose files are there: a user may have removed a damaged one."""
    state = tf.train.get_checkpoint_state(folder)
    paths = reversed(state.all_model_checkpoint_paths) if state else ()
    return next((path for path in paths if tf.io.gfile.exists(path + ".index")), None)


def _read(checkpoint, path, check):
    try:
        status = checkpoint.read(path)
        getattr(status, check)()
    # TensorFlow says of a cut file that it is out of range, which Python gets as an IndexError.
    except (AssertionError, IndexError, RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"checkpoint {path} does not fit this config and version, or is damaged: {reason}; "
            f"remove {path}.* to take the one before"
        ) from error
    return status
