"""launch/doctor.py as it is typed."""

import os
import subprocess
import sys

from tests import tiny
from tests.launch.launcher import ROOT


def doctor(*flags, path=ROOT):
    return subprocess.run(
        [sys.executable, "launch/doctor.py", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_a_table_and_exit_codes(tmp_path, squares, config_file):
    flags = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    good = doctor(*flags, *tiny.flags(squares))
    assert good.returncode == 0 and good.stderr == "", good
    lines = good.stdout.splitlines()
    assert {line.split()[0] for line in lines if "->" not in line} <= {"ok", "warning"}
    subjects = [line[9:].split()[0] for line in lines if "->" not in line]
    assert subjects[0] == "python" and {"keras", "CPU", "workdir", "data", "disk"} <= set(subjects)
    bad = doctor(*flags, *tiny.flags(tmp_path / "absent"))
    assert bad.returncode == 1 and bad.stderr == ""
    (line,) = (line for line in bad.stdout.splitlines() if line.startswith("PROBLEM"))
    assert "absent" in line and "manifest.json is missing" in line
    assert list(tmp_path.iterdir()) == []


def test_a_tensorflow_that_aborts(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os\nos.abort()\n")
    result = doctor(path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert result.returncode == 1 and result.stderr == ""
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("PROBLEM"))
    assert "tensorflow" in line and "SIGABRT when it is imported" in line
