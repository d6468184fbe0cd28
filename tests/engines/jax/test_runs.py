"""Errors that end a run on JAX while it trains are explained as on TensorFlow."""

import json
import shutil

import numpy as np
import pytest

from t2i_tpu.training.nonfinite import find_first_nonfinite
from tests import tiny
from tests.launch import launcher


@pytest.fixture
def train(tmp_path, launch):
    """`train(folder, more flags, **changes)` trains the tiny config on a data set with JAX."""
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)

    def run_to_the_end(folder, *flags, **changes):
        settings = tiny.make_flags(folder, **changes)
        flags = [*flags, f"--config={config}", f"--workdir={tmp_path / 'run'}", "--engine=jax"]
        return launch("train.py", [*flags, *settings]).wait()

    return run_to_the_end


def test_damaged_record_is_named(tmp_path, squares, train):
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    shard = data / "train-0001-00002.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    result = train(data)
    assert result.code == 1 and "Traceback" not in result.stderr, result
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"train.py: error: shard {shard} is damaged at record "), error


def find_nonfinite(squares, weights, path):
    """Write the first non-finite value in step 0 for each (path of a weight, value of its elements)."""
    run, found = tiny.Run(tiny.make_config(squares)), []
    for name, value in weights:
        weight = run.state.weights[name]
        kept = run.engine.read(weight)
        run.engine.assign(weight, np.full(kept.shape, value))
        found.append(find_first_nonfinite(run.trainer, run.dataset, 0))
        run.engine.assign(weight, kept)
    path.write_text(json.dumps(found))


def test_first_nonfinite_layer_is_named(squares, tmp_path):
    """A finite weight overflows in a layer, and another weight is not a number."""
    weights = [
        ("denoiser/unet/middle/residual/conv1/kernel", 3e38),
        ("denoiser/unet/head/kernel", np.nan),
    ]
    path = tmp_path / "found.json"
    process = launcher.start_process(find_nonfinite, (squares, weights, path), "jax")
    process.join()
    in_layer, in_weight = json.loads(path.read_text())
    assert in_layer.startswith("the output of denoiser/unet/middle/residual/conv1 is the first non")
    assert in_weight.startswith("weight denoiser/unet/head/kernel is the first non-finite value")
