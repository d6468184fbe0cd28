"""Train a model: python launch/train.py --config=configs/emoji32.py --workdir=runs/emoji32

Run the same command again to go on where it stopped.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
STRATEGY = cli.define_strategy()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder or gs://bucket/path for all that the run writes."
)
ON_NONFINITE = flags.DEFINE_enum(
    "on_nonfinite",
    "stop",
    ["stop", "rollback"],
    "When gradients stay infinite or NaN: stop, or go back to a checkpoint at half the learning rate.",
)
WATCHDOG_MINUTES = flags.DEFINE_float(
    "watchdog_minutes", 10, "Without a step until it is told what the run waits for; 0 = never.", 0
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> int:
    from t2i_tpu.train.loop import train  # after the flags: a wrong one needs no TensorFlow

    return train(
        CONFIG.value, WORKDIR.value, STRATEGY.value, ON_NONFINITE.value, WATCHDOG_MINUTES.value
    )


if __name__ == "__main__":
    cli.run(main)
