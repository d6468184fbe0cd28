"""Decides whether a run has ended, and whether it has ended well."""

import math

from absl import logging

from t2i_tpu.config import Config
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store, evaluations


def is_finished(config: Config, workdir: str) -> bool:
    """Return whether the last step has an intact checkpoint and the evaluation due; log it if so."""
    total = config.train.total_steps
    if max(checkpoint_store.list_steps(workdir), default=0) < total:
        return False
    if (newest := next(checkpoint_store.iter_intact(workdir))).step < total:
        return False
    check_final_loss(newest.metrics, workdir)
    if evaluations.is_missing(config.train, workdir, total):
        return False
    logging.info("finished: %s holds all %d steps; see its previews/", workdir, total)
    return True


def check_final_loss(metrics: dict[str, float], workdir: str) -> None:
    """Raise UserError if a run has ended with an infinite or NaN loss.

    Its weights are finite, because steps with non-finite gradients do not change them, but the model is
    probably useless. If the run recovered before its last step, it passes.

    Args:
      metrics: the metrics that the last checkpoint stores.
      workdir: the run's workdir, for the message.
    """
    loss = metrics.get("loss", 0.0)
    if not math.isfinite(loss) and metrics.get("skipped_in_a_row", 1):
        raise UserError(
            f"the run in {workdir} has ended, but its last loss is {loss}, so its model is probably "
            "useless; train again in another --workdir with a lower config.train.learning_rate"
        )
