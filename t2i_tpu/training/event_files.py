"""Writes the event files that TensorBoard reads, into a workdir on disk or gs://."""

import os
import posixpath
import shutil
import tempfile

import tensorflow as tf
from absl import logging

from t2i_tpu.storage import files, paths


class EventFiles:
    """Writes the event files of a process for the duration of a `with` block.

    TensorFlow uploads a complete event file whenever something is added to it, so the files for gs://
    are written to a temporary folder on the local disk. `copy` uploads them, and so does the end of
    the block.

    Attributes:
      writer: writes summaries, inside the block.
    """

    def __init__(self, folder: str, is_chief: bool):
        """Say where the files will be. Nothing is written yet.

        Args:
          folder: local or gs://.
          is_chief: whether this host writes. On other hosts, nothing happens.
        """
        self.folder, self.is_chief = folder, is_chief
        self.writer = tf.summary.create_noop_writer()
        self._local, self._copied = folder, {}

    def __enter__(self) -> "EventFiles":
        if self.is_chief:
            if paths.is_remote(self.folder):
                self._local = tempfile.mkdtemp(prefix="t2i_tpu-logs-")
            self.writer = tf.summary.create_file_writer(self._local)
        return self

    def __exit__(self, *_):
        try:
            self.writer.close()
            self.copy()
        finally:
            if self._local != self.folder:
                shutil.rmtree(self._local, ignore_errors=True)

    def copy(self) -> None:
        """Upload the files that have grown since the last call. If this fails, log a warning."""
        if self._local == self.folder:
            return
        try:
            for entry in os.scandir(self._local):
                size = entry.stat().st_size
                if self._copied.get(entry.name) != size:
                    target = posixpath.join(self.folder, entry.name)
                    tf.io.gfile.copy(entry.path, target, overwrite=True)
                    self._copied[entry.name] = size
        except (OSError, tf.errors.OpError) as error:
            reason = files.explain_error(self.folder, error)
            logging.warning("the logs for TensorBoard could not be copied: %s", reason)
