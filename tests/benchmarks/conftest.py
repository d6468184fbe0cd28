"""Fixtures of the tests of benchmarks/gpu.py."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Packages that the package needs, but the benchmark does not.
ABSENT = (
    *("tensorflow", "tensorboard", "ml_collections", "onnxruntime", "tokenizers", "tqdm"),
    "tensorflow_datasets",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The file that --pack writes for a tiny emoji32."""
    path = tmp_path_factory.mktemp("pack") / "data.npz"
    done = run_benchmark(
        [f"--pack={path}", "--small", "--cases=emoji32"], {"KERAS_BACKEND": "tensorflow"}
    )
    assert done.returncode == 0, done.stderr
    assert [file.name for file in path.parent.iterdir()] == ["data.npz"]
    return path


@pytest.fixture(scope="module")
def without_tensorflow(tmp_path_factory):
    """Environment variables with which importing any of ABSENT fails."""
    folder = tmp_path_factory.mktemp("absent")
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} must not be imported')\n")
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # it takes longer to compile than to run
    }


@pytest.fixture(scope="module")
def run():
    """`run(arguments, environment)` runs benchmarks/gpu.py and returns the completed process."""
    return run_benchmark


def run_benchmark(arguments, environment):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks/gpu.py", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=290,
    )
