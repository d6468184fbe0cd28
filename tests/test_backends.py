"""diffusion/, models/ and sample/generate.py give the same results on TensorFlow and on JAX."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROBE = ROOT / "tests/backend_probe.py"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The probe's results on TensorFlow, in this process, and on JAX, in another, with equal weights."""
    pytest.importorskip("jax", reason="needs jax (extra dev)")
    spec = importlib.util.spec_from_file_location("backend_probe", PROBE)
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    here, weights = probe.compute_results(None)
    folder = tmp_path_factory.mktemp("backends")
    np.savez(folder / "weights.npz", **weights)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # it takes longer to compile than to run
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, PROBE, folder / "weights.npz", folder / "result.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return here, dict(np.load(folder / "result.npz"))


def test_random_bits_are_equal(both):
    here, there = both
    np.testing.assert_array_equal(here["bits"], there["bits"])
    np.testing.assert_array_equal(here["bits"][:, 0], there["jaxs_own_bits"])
    for name in ("keys", "uniform"):
        np.testing.assert_array_equal(here[name], there[name])


def test_normals_are_equal(both):
    here, there = both
    np.testing.assert_allclose(here["normal"], there["normal"], atol=1e-6)


@pytest.mark.parametrize("name", ["modern/tokens", "modern/sequence", "baseline/label"])
def test_denoiser_and_images_are_equal(both, name):
    here, there = both
    assert np.std(here[name]) > 0.05
    np.testing.assert_allclose(here[name], there[name], atol=1e-4)
    np.testing.assert_allclose(here[f"{name}/images"], there[f"{name}/images"], atol=1e-3)
