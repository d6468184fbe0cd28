"""launch/bench.py prints its report; tests/profile/test_bench.py checks the figures."""

from tests import tiny


def test_report_is_printed(squares, config_file, run):
    flags = [f"--config={config_file}", "--rounds=1", "--steps=1", *tiny.make_flags(squares)]
    result = run("bench.py", flags)
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[:18].strip() for line in lines] == [
        "parameters",
        "setting",
        "compile",
        "images/s",
        "FLOPs of a step",
        "achieved",
        "peak",
        "utilization",
        "outside products",
        "checkpoint",
    ]
    assert lines[1].endswith("batch 8, float32, XLA off, 1 replica(s)")
    assert "1 rounds of 1 steps" in lines[3]
