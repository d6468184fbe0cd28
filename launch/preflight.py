"""See, without a TPU, whether a config will run on one, whether it fits, how long and how much:

  python launch/preflight.py --config=configs/clip64.py --tpu=v3-8

Traces the real train loop under TPUStrategy, compiles one replica's step and the sampler with the
TPU's own compiler (in an environment of its own, made on first use), and estimates time and money.
Exit code 1 where something speaks against it. docs/tpu.md has an example.
"""

from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
TPU = flags.DEFINE_string("tpu", None, "Accelerator type: v2-8, v3-8, v4-8, v5litepod-8, v6e-8 ...")
OUTPUT = flags.DEFINE_string("output", None, "A file for the report as JSON, local or gs://.")
COMPILE = flags.DEFINE_bool("compile", True, "Compile with the TPU's compiler (minutes).")
COMPILE_SECONDS = flags.DEFINE_integer(
    "compile_timeout", 1800, "Seconds for each program.", lower_bound=1
)
PRICE = flags.DEFINE_float(
    "price_per_hour", None, "Dollars an hour of the whole TPU, in place of the table's."
)
flags.mark_flags_as_required(["config", "tpu"])


def main() -> int:
    import tensorflow as tf

    from t2i_tpu.tpu import report as report_lib
    from t2i_tpu.tpu.preflight import preflight

    report = preflight(CONFIG.value, TPU.value, COMPILE.value, COMPILE_SECONDS.value, PRICE.value)
    print(report_lib.to_text(report))
    if OUTPUT.value:
        with tf.io.gfile.GFile(OUTPUT.value, "w") as file:
            file.write(report_lib.to_json(report))
    return 1 if report.failures else 0


if __name__ == "__main__":
    cli.run(main)
