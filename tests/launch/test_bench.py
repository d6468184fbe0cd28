"""launch/bench.py prints each of its figures, and they agree with each other."""

import re

from tests import tiny


def test_bench_prints_all_its_lines(squares, config_file, run):
    flags = [f"--config={config_file}", "--rounds=1", "--steps=1", *tiny.flags(squares)]
    result = run("bench.py", flags)
    assert result.code == 0, result.stderr
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    numbers = {name: float(re.search(r"[\d.]+", text)[0]) for name, text in lines.items()}
    names = "parameters", "setting", "compile", "images/s", "FLOPs of a step", "achieved", "peak"
    assert set(lines) == {*names, "utilisation", "outside products", "checkpoint"}
    assert numbers["checkpoint"] == 2 and lines["checkpoint"].endswith("at one a minute")
    assert numbers["setting"] == 8 and "float32, XLA off, 1 replica" in lines["setting"]
    assert numbers["parameters"] > 0 and numbers["peak"] > 0 and numbers["compile"] > 0
    achieved = numbers["FLOPs of a step"] * numbers["images/s"] / 8
    assert abs(numbers["achieved"] - achieved) <= 0.5 + 0.6 * numbers["images/s"] / 8 * 0.1
    assert abs(numbers["utilisation"] - 100 * achieved / numbers["peak"]) < 1.5
    assert 0 < numbers["outside products"] < 100
