"""Measure a config's training step: python launch/bench.py --config=configs/emoji32.py

Prints compile time, images/s, FLOPs of a step, utilisation against the machine's own peak (the best
of a few large matrix products in the same dtype, timed in turns with the steps), the share of the
step outside convolutions, attention and other matrix products, and what a checkpoint costs.
"""

from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
STRATEGY = cli.define_strategy()
ROUNDS = flags.DEFINE_integer("rounds", 5, "Repeats of the measurement.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 5, "Training steps in each.", lower_bound=1)
flags.mark_flag_as_required("config")


def main() -> None:
    from t2i_tpu.profile.bench import bench

    print(bench(CONFIG.value, STRATEGY.value, ROUNDS.value, STEPS.value))


if __name__ == "__main__":
    cli.run(main)
