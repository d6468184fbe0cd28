"""Look whether training can work here: python launch/doctor.py

  python launch/doctor.py --config=configs/emoji32.py --workdir=runs/emoji32

The second looks at the workdir, the data, the disk and the memory too. Each line of the table is ok,
warning or PROBLEM, with a remedy; exits 1 where there is a problem. Nothing is trained or left.
"""

from absl import flags

from t2i_tpu import cli, findings, installed

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder or gs://bucket/path that a run will write.")


def main() -> int:
    found = [*installed.survey(), *findings.run_isolated(_examine, CONFIG.value, WORKDIR.value)]
    print(findings.format_table(found))
    return int(any(finding.status == findings.PROBLEM for finding in found))


def _examine(config, workdir):
    from t2i_tpu.run.doctor import examine

    return examine(config, workdir)


if __name__ == "__main__":
    cli.run(main, imports_tensorflow=False)
