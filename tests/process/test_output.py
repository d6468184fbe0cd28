"""Tests of scripts whose output nobody reads, or that cannot be written."""

import os
import subprocess
import sys

import pytest

from tests.launch.launcher import ROOT

SCRIPTS = ("launch/runs.py --help", "launch/doctor.py --help")


def run(command, **options):
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} {command}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        **options,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_reader_that_ends_is_no_error(script, unbuffered):
    result = run(
        f"{script} | true; exit ${{PIPESTATUS[0]}}",
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_full_disk_is_one_line(script):
    result = run(f"{script} > /dev/full")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr


def test_closed_streams_are_not_given_to_files(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os\n"
        "from t2i_tpu.process import interruptible\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "os.write(1, b'output')\n"
        "os.write(2, b'error')\n"
        "print('output')\n"
    )
    result = run(f"{tmp_path}/script.py <&- >&- 2>&-", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_characters_that_the_terminal_lacks_are_escaped():
    code = 'from t2i_tpu.process import interruptible; print("\\u65e5")'
    result = run(f"-c '{code}'", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (result.stdout, result.stderr) == ("\\u65e5\n", "")
