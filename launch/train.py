"""Train a model.

  python launch/train.py --config=configs/emoji32.py --workdir=runs/emoji32

Run the same command again to resume a stopped run.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
STRATEGY = cli.define_strategy()
cli.define_engine()
WORKDIR = cli.define_path(
    "workdir", None, "Folder or gs://bucket/path for everything that the run writes."
)
ON_NONFINITE = flags.DEFINE_enum(
    "on_nonfinite",
    "stop",
    ["stop", "rollback"],
    "What to do if the gradients stay infinite or NaN: stop, or return to an earlier checkpoint and "
    "halve the learning rate.",
)
WATCHDOG_MINUTES = flags.DEFINE_float(
    "watchdog_minutes",
    10,
    "Minutes without a training step before the log says what the run is waiting for. 0 turns this off.",
    lower_bound=0,
    upper_bound=10**6,
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> int:
    from t2i_tpu.training.loop import train

    return train(
        CONFIG.value, WORKDIR.value, STRATEGY.value, ON_NONFINITE.value, WATCHDOG_MINUTES.value
    )


if __name__ == "__main__":
    cli.run(main)
