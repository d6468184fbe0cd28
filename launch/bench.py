"""Measure the training step of a config.

  python launch/bench.py --config=configs/emoji32.py

Prints the time to compile, images per second, the FLOPs of a step, the utilization (relative to the
FLOPs per second of large matrix products in the same dtype, timed in turns with the steps), the share
of the step's time outside convolutions and matrix products, and the cost of a checkpoint.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
STRATEGY = cli.define_strategy()
cli.define_engine()
ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of times to repeat the measurement.", lower_bound=1, upper_bound=10**6
)
STEPS = flags.DEFINE_integer(
    "steps", 5, "Number of training steps in each round.", lower_bound=1, upper_bound=10**6
)
flags.mark_flag_as_required("config")


def main() -> None:
    from t2i_tpu.profile.bench import measure
    from t2i_tpu.profile.bench_report import format_measurement

    measurement = measure(CONFIG.value, STRATEGY.value, ROUNDS.value, STEPS.value)
    print(format_measurement(measurement))


if __name__ == "__main__":
    cli.run(main)
