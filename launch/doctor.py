"""Check whether training will work on this machine: python launch/doctor.py

  python launch/doctor.py --config=configs/emoji32.py --workdir=runs/emoji32

The second form also checks the workdir, the data, the disk and the memory. Each line of the table
says ok, warning or PROBLEM, and how to fix a problem. The exit code is 1 if there is a problem.
Nothing is trained, and no files are left behind.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import importlib.util
import os

from t2i_tpu import cli, compatibility, findings, installed

CONFIG = cli.define_config()
cli.define_engine()
WORKDIR = cli.define_path("workdir", None, "Folder or gs:// path that the run would write to.")


def main() -> int:
    engine = cli.choose_engine()
    results = compatibility.survey(engine)
    if importlib.util.find_spec(engine):
        results += findings.run_isolated(_examine, CONFIG.value, WORKDIR.value)
    print(findings.format_table(results))
    return int(any(finding.status == findings.PROBLEM for finding in results))


def _examine(config, workdir):
    """Run the checks that import TensorFlow and the engine, in a process of their own."""
    if installed.count_tpu_chips():
        os.environ["JAX_PLATFORMS"] = "cpu"  # a run may be using the TPU
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a run may need the GPU's memory
    from t2i_tpu.run.doctor import examine

    return examine(config, workdir)


if __name__ == "__main__":
    cli.run(main, imports_tensorflow=False)
