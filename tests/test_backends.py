"""diffusion/ and models/ are written for Keras, not for TensorFlow, and JAX gives the same."""

import ast
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROBE = ROOT / "tests/backend_probe.py"
# What each part may import of the package: itself and what comes before it.
BEFORE = {
    "diffusion": {"diffusion"},
    "models": {"config", "diffusion", "models"},
}
OUTSIDE = {"enum", "keras", "math", "numpy", "typing"}
FILES = [path for part in BEFORE for path in sorted((ROOT / "t2i_tpu" / part).glob("*.py"))]


def imported(path):
    """The dotted names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_files():
    names = {f"{path.parent.name}/{path.stem}" for path in FILES}
    assert {"diffusion/samplers", "diffusion/random", "models/unet", "models/denoiser"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_tensorflow_and_nothing_that_comes_later(path):
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "t2i_tpu":
            assert rest[0] in BEFORE[path.parent.name], name
        else:
            assert top in OUTSIDE, name


def test_the_config_imports_no_framework():
    """So that a wrong flag is told at once."""
    code = (
        "import sys, t2i_tpu.config; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'config imports a framework'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the probe finds here, on TensorFlow, and in a process of its own, on JAX with the same
    weights."""
    pytest.importorskip("jax", reason="needs jax (extra dev)")
    spec = importlib.util.spec_from_file_location("backend_probe", PROBE)
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    here, weights = probe.results(None)
    folder = tmp_path_factory.mktemp("backends")
    np.savez(folder / "weights.npz", **weights)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # it compiles for longer than it runs
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, PROBE, folder / "weights.npz", folder / "result.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return here, dict(np.load(folder / "result.npz"))


def test_the_same_bits(both):
    here, there = both
    np.testing.assert_array_equal(here["bits"], there["bits"])
    np.testing.assert_array_equal(here["bits"][:, 0], there["jaxs_own_bits"])
    for name in ("keys", "uniform"):
        np.testing.assert_array_equal(here[name], there[name])


def test_the_same_normals(both):
    here, there = both
    np.testing.assert_allclose(here["normal"], there["normal"], atol=1e-6)


@pytest.mark.parametrize("name", ["modern/tokens", "modern/sequence", "baseline/label"])
def test_the_same_denoiser_and_the_same_images(both, name):
    here, there = both
    assert np.std(here[name]) > 0.05
    np.testing.assert_allclose(here[name], there[name], atol=1e-4)
    np.testing.assert_allclose(here[f"{name}/images"], there[f"{name}/images"], atol=1e-3)
