"""Check, without a TPU, whether a config will run and fit on one, and estimate time and price.

  python launch/preflight.py --config=configs/clip64.py --tpu=v3-8

Compiles the training step and the sampler with the TPU's own compiler (in a separate environment that
is installed on first use), and estimates time and price. For TensorFlow, it compiles for one replica
and also traces the real training loop under TPUStrategy. For JAX, it compiles for all devices. The exit
code is 1 if the config will not run. docs/preflight.md has an example.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

from t2i_tpu import cli

CONFIG = cli.define_config()
TPU = flags.DEFINE_string(
    "tpu", None, "Accelerator type, such as v2-8, v3-8, v4-8, v5litepod-8 or v6e-8."
)
ENGINE = cli.define_engine()
OUTPUT = cli.define_path(
    "output", None, "File to write the report to, as JSON. A local or gs:// path."
)
COMPILE = flags.DEFINE_bool(
    "compile", True, "Whether to compile with the TPU's compiler, which takes minutes."
)
COMPILE_SECONDS = flags.DEFINE_integer(
    "compile_timeout",
    1800,
    "Time limit for compiling each program, in seconds.",
    lower_bound=1,
    upper_bound=10**6,
)
PRICE = flags.DEFINE_float(
    "price_per_hour",
    None,
    "Price of the entire TPU in US dollars per hour. Default: the list price.",
    lower_bound=0,
)
flags.mark_flags_as_required(["config", "tpu"])


def main() -> int:
    from t2i_tpu.storage import outputs
    from t2i_tpu.tpu import report as report_lib
    from t2i_tpu.tpu.preflight import run_preflight

    if OUTPUT.value:
        outputs.check_file(OUTPUT.value, "--output=")
    report = run_preflight(
        CONFIG.value,
        TPU.value,
        COMPILE.value,
        COMPILE_SECONDS.value,
        PRICE.value,
        ENGINE.value,
    )
    print(report_lib.to_text(report))
    if OUTPUT.value:
        outputs.write_file(OUTPUT.value, report_lib.to_json(report).encode())
    return 1 if report.failures else 0


if __name__ == "__main__":
    # TensorFlow counts the costs for both engines.
    cli.run(main, fixed_engine="tensorflow")
