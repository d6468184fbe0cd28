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
def results(tmp_path_factory):
    """The probe's results on TensorFlow, in this process, and on JAX, in another, with equal weights."""
    pytest.importorskip("jax", reason="needs jax (extra dev)")
    spec = importlib.util.spec_from_file_location("backend_probe", PROBE)
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    on_tensorflow, weights = probe.compute_results(None)
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
    return on_tensorflow, dict(np.load(folder / "result.npz"))


def test_random_bits_are_equal(results):
    on_tensorflow, on_jax = results
    np.testing.assert_array_equal(on_tensorflow["bits"], on_jax["bits"])
    np.testing.assert_array_equal(on_tensorflow["bits"][:, 0], on_jax["jaxs_own_bits"])
    for name in ("keys", "uniform"):
        np.testing.assert_array_equal(on_tensorflow[name], on_jax[name])


def test_normals_are_equal(results):
    on_tensorflow, on_jax = results
    np.testing.assert_allclose(on_tensorflow["normal"], on_jax["normal"], atol=1e-6)


@pytest.mark.parametrize("name", ["modern/tokens", "modern/sequence", "baseline/label"])
def test_denoiser_and_images_are_equal(results, name):
    on_tensorflow, on_jax = results
    assert np.std(on_tensorflow[name]) > 0.05
    np.testing.assert_allclose(on_tensorflow[name], on_jax[name], atol=1e-4)
    np.testing.assert_allclose(on_tensorflow[f"{name}/images"], on_jax[f"{name}/images"], atol=1e-3)
