"""The peer of benchmarks/gpu.py, a network in PyTorch (extra clip)."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from t2i_tpu.config import Config, resolve

pytestmark = pytest.mark.clip
PROBE = pathlib.Path(__file__).with_name("peer_probe.py")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs torch (extra clip)")


def test_the_loss_is_that_of_our_step(torch):
    """Both get the same random numbers and the same output of the network."""
    from benchmarks.on_gpu import peer_training
    from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS
    from t2i_tpu.diffusion.path import PATHS, corrupt
    from t2i_tpu.models.conditioning import drop_conditions
    from t2i_tpu.step.objective import compute_losses

    config = Config()
    config.data.horizontal_flip = True
    config = resolve(config)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 4, 4, 3), np.uint8)
    noise = rng.standard_normal((6, 4, 4, 3)).astype(np.float32)
    condition = rng.standard_normal((6, 5)).astype(np.float32)
    level_draw, keep_draw, flip_draw = rng.uniform(size=(3, 6)).astype(np.float32)
    keep_draw[0], keep_draw[1:] = 0.05, keep_draw[1:] / 2 + 0.5
    seen = {}

    def network(x, level, condition):  # any function of the inputs
        seen["theirs"] = (x, level, condition)
        return 0.5 * x + level[:, None, None, None] + condition.mean()

    def channels_first(array):
        return torch.from_numpy(array).permute(0, 3, 1, 2)

    loss = peer_training.compute_loss(
        network,
        config,
        channels_first(image),
        torch.from_numpy(condition),
        channels_first(noise),
        *map(torch.from_numpy, (level_draw, keep_draw, flip_draw)),
    )

    def denoiser(x, level, condition, training):
        return 0.5 * x + level[:, None, None, None] + keras.ops.mean(condition["embedding"]), {}

    denoiser.diffusion_path = PATHS[config.diffusion.path]
    scaled = image.astype(np.float32) / 127.5 - 1.0
    scaled = np.where(flip_draw[:, None, None, None] < 0.5, scaled[:, :, ::-1], scaled)
    level = NOISE_LEVELS[config.diffusion.noise_levels](level_draw)
    examples = {
        "image": scaled,
        "noise": noise,
        "noise_level": level,
        "noisy": corrupt(denoiser.diffusion_path, scaled, noise, level[:, None, None, None]),
        "condition": drop_conditions(
            {"embedding": condition}, keep_draw >= config.diffusion.cond_dropout_rate
        ),
    }
    losses, _ = compute_losses(config, denoiser, examples)
    np.testing.assert_allclose(float(loss), np.mean(losses), rtol=1e-5)
    _, _, theirs = seen["theirs"]
    assert (theirs[0] == 0).all() and (theirs[1:] != 0).all()


def test_the_number_of_parameters_matches():
    """The configs are emoji32, clip64, cifar10 and fashion_mnist."""
    ratios = run_probe("ratios")
    assert len(ratios) == 4 and all(abs(ratio - 1) < 0.05 for ratio in ratios)


@pytest.mark.allowed_skip  # no extra installs diffusers
@pytest.mark.skipif(not importlib.util.find_spec("diffusers"), reason="needs diffusers")
def test_the_network_computes_the_same_as_that_of_diffusers():
    difference, scale = run_probe("diffusers")
    assert difference < 1e-5 and scale > 0.1


def run_probe(name):
    """Run peer_probe.py in a process without TensorFlow, next to which Triton crashes."""
    environment = {**os.environ, "PYTHONPATH": str(PROBE.parents[2])}
    command = [sys.executable, PROBE, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_both_engines_are_measured(torch, run, data, without_tensorflow, tmp_path):
    arguments = [f"--data={data}", f"--output={tmp_path}", "--modes=eager", "--budget=270"]
    done = run(arguments, {**without_tensorflow, "OMP_NUM_THREADS": "1"})
    # On a busy machine, there may be no time left for the picture.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    speeds = json.loads((tmp_path / "report.json").read_text())["speeds"]["emoji32"]
    assert speeds["peer"]["mode"] == "eager" and len(speeds["peer"]["images_per_second"]) == 2
    assert "PyTorch, eager" in done.stdout
