"""Measures training with JAX on one large GPU, and compares it with PyTorch, in under six minutes.

  python benchmarks/gpu.py --pack=gpu.npz               # beforehand, on any machine with TensorFlow
  python benchmarks/gpu.py --data=gpu.npz --output=out  # on the GPU

The second command needs JAX, Keras and PyTorch, but neither TensorFlow nor internet access. It writes
report.md, report.json, the picture emoji32.png and the logs jax.log and peer.log. docs/performance.md
describes what it measures, and how to install Keras without internet access.

Exit status: 0 if everything was measured and is correct, 1 for a wrong flag or file, 2 if the weights differ from
the reference, and 3 if the report is incomplete.
"""

import importlib.util
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from t2i_tpu.errors import UserError

PACK = flags.DEFINE_string("pack", None, "File to write, with everything that --data needs.")
SMALL = flags.DEFINE_bool(
    "small", False, "Write a file of tiny networks, to try the benchmark on a CPU."
)
CASES = flags.DEFINE_list(
    "cases",
    ["emoji32", "clip64", "cifar10", "fashion_mnist"],
    "Configs to write to --pack and to measure, in this order.",
)
FASHION_MNIST = flags.DEFINE_string(
    "fashion_mnist",
    "tfds:fashion_mnist",
    "Source of Fashion MNIST for --pack, such as idx:/usr/share/datasets/fashion-mnist.",
)
DATA = flags.DEFINE_string("data", None, "File that --pack wrote.")
OUTPUT = flags.DEFINE_string("output", "gpu-report", "Folder for the report, picture and logs.")
PEER = flags.DEFINE_bool("peer", True, "Also measure PyTorch.")
BUDGET = flags.DEFINE_float(
    "budget", 340, "Time budget in seconds. A larger one allows larger batches.", 20
)
MODES = flags.DEFINE_list(
    "modes",
    ["default", "max-autotune-no-cudagraphs"],
    "Modes of torch.compile, or eager. The first is measured first, and the others if there is time.",
)


def main(_) -> int:
    # Otherwise the processes of JAX and PyTorch would outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if bool(PACK.value) == bool(DATA.value):
            raise UserError("set either --pack, to write the data, or --data, to measure")
        return write_data() if PACK.value else measure()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def write_data() -> int:
    """Write the file that `measure` reads."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("--pack needs TensorFlow; install it with pip install -e '.[cpu]'")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from benchmarks.on_gpu.pack import BATCH_SIZES, pack

    if not {"emoji32"} <= set(CASES.value) <= set(BATCH_SIZES):
        raise UserError(
            f"--cases={','.join(CASES.value)}: it must contain emoji32, and may contain "
            f"{', '.join(BATCH_SIZES)}"
        )
    pack(PACK.value, CASES.value, FASHION_MNIST.value, SMALL.value)
    print(f"{PACK.value}: {os.path.getsize(PACK.value) / 1e6:.1f} MB")
    return 0


def measure() -> int:
    """Measure, print the report, and return the exit status."""
    for name in ("jax", "keras", "PIL"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--data needs the Python package {name}; see docs/performance.md")
    from benchmarks.on_gpu.report import format_report
    from benchmarks.on_gpu.schedule import Benchmark

    output = pathlib.Path(OUTPUT.value)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from error
    modes, absent = MODES.value if PEER.value else [], None
    if modes and importlib.util.find_spec("torch") is None:
        modes, absent = [], "torch is not installed"
    benchmark = Benchmark(DATA.value, output, BUDGET.value, modes, absent)
    results = benchmark.run()
    print(format_report(results))
    if not all(check["passed"] for check in results["checks"]):
        print("error: the weights differ from the reference", file=sys.stderr)
        return 2
    if results["missing"]:
        print("incomplete: see the list above", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    app.run(main)
