"""Tests what programs import when they start, and how long this takes."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SLOW = ["tensorflow", "keras", "jax", "numpy", "PIL", "absl", "onnxruntime", "google"]


def run_python(code):
    """Run code in a new process and return what it prints."""
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)


def test_the_package_is_imported_in_less_than_0_3_seconds():
    code = f"""
import sys, time
before = set(sys.modules)
start = time.process_time()
import t2i_tpu
assert t2i_tpu.__version__
seconds = time.process_time() - start
print(seconds, *({{name.partition(".")[0] for name in set(sys.modules) - before}} & set({SLOW})))
"""
    seconds, *slow = run_python(code).split()
    assert not slow
    assert float(seconds) < 0.3


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_tensorflow_is_imported_without_optional_packages(backend):
    pytest.importorskip(backend)
    code = f"""
import os, sys
os.environ["KERAS_BACKEND"] = {backend!r}
from t2i_tpu.process import tensorflow_alone
print(*(name for name in ("keras", "jax", "matplotlib", "sklearn", "scipy") if name in sys.modules))
import gc, matplotlib.figure, scipy.stats, sklearn.linear_model
assert gc.isenabled()
"""
    imported = run_python(code).split()
    if backend == "tensorflow":
        assert imported == ["keras"]
    else:  # JAX needs SciPy
        assert imported == ["keras", "jax", "scipy"]


def test_python_interface_hides_no_packages_from_keras():
    code = """
from t2i_tpu import framework
framework.start("tensorflow")
from keras.src.wrappers import fixes
print(fixes.sklearn is not None)
"""
    assert run_python(code) == "True\n"
