"""A run's rollbacks: its returns to an earlier checkpoint after non-finite gradients."""

import json
import posixpath

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.storage import files, json_files

# Each rollback multiplies the learning rate by this.
LEARNING_RATE_FACTOR = 0.5


class Rollbacks:
    """The rollbacks of a run. The workdir holds a record of them, which a resumed run reads.

    Attributes:
      records: a dict for each rollback: "at" is the step at which it happened, and "to" the step of
        the checkpoint to which the run returned.

    Raises:
      UserError: the record in the workdir is damaged.
    """

    def __init__(self, workdir: str):
        self.path = posixpath.join(workdir, "rollbacks.json")
        self.records = []
        if not tf.io.gfile.exists(self.path):
            return
        try:
            with tf.io.gfile.GFile(self.path, "rb") as file:
                self.records = json_files.parse(file.read(), _parse_records)
        except json_files.DamagedJson as error:
            raise UserError(
                f"{self.path} is damaged ({error}); remove it to resume at the full learning rate"
            ) from error

    @property
    def learning_rate_scale(self) -> float:
        """The factor by which the learning rate is multiplied."""
        return LEARNING_RATE_FACTOR ** len(self.records)

    def find_target(self, workdir: str, began: int) -> int:
        """Return the step of the checkpoint to roll back to, or 0 if there is none.

        It is the newest intact checkpoint that contains none of the skipped steps and that no earlier
        rollback has used.

        Args:
          workdir: local or gs://.
          began: the number of steps that were done when the gradients became non-finite.
        """
        used = {record["to"] for record in self.records}
        steps = (info.step for info in checkpoint_store.iter_intact(workdir, before=began + 1))
        return next((step for step in steps if step not in used), 0)

    def add(self, at: int, to: int, write: bool) -> None:
        """Record a rollback at step `at` to step `to`, and write the record if `write` is true."""
        self.records.append({"at": at, "to": to})
        if write:
            files.write(self.path, json.dumps(self.records, indent=1) + "\n")


def _parse_records(records):
    return [{name: int(record[name]) for name in ("at", "to")} for record in records]
