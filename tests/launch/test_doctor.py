"""launch/doctor.py prints a table, and its exit code says whether there is a problem."""

import os
import subprocess
import sys

from tests import tiny
from tests.launch.launcher import ROOT


def run_doctor(*flags, path=ROOT):
    return subprocess.run(
        [sys.executable, "launch/doctor.py", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_table_and_exit_code_show_problems(tmp_path, squares, config_file):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    good = run_doctor(*flags, *tiny.make_flags(squares))
    assert good.returncode == 0 and good.stderr == "", good
    lines = [line for line in good.stdout.splitlines() if "->" not in line]
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}
    subjects = [line[9:].split()[0] for line in lines]
    assert subjects[0] == "python" and {"keras", "CPU", "workdir", "data", "disk"} <= set(subjects)

    bad = run_doctor(*flags, *tiny.make_flags(tmp_path / "absent"))
    assert bad.returncode == 1 and bad.stderr == ""
    (problem,) = (line for line in bad.stdout.splitlines() if line.startswith("PROBLEM"))
    assert "absent" in problem and "manifest.json is missing" in problem
    assert list(tmp_path.iterdir()) == []


def test_table_of_jax(squares, config_file):
    result = run_doctor("--engine=jax", f"--config={config_file}", *tiny.make_flags(squares))
    assert result.returncode == 0 and result.stderr == "", result
    lines = [line for line in result.stdout.splitlines() if "->" not in line]
    assert {"jax", "jaxlib", "data", "memory"} <= {line[9:].split()[0] for line in lines}


def test_crash_of_tensorflow_is_reported(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os\nos.abort()\n")
    result = run_doctor(path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert result.returncode == 1 and result.stderr == ""
    (problem,) = (line for line in result.stdout.splitlines() if line.startswith("PROBLEM"))
    assert "tensorflow" in problem and "SIGABRT when it is imported" in problem
