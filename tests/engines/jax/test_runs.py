"""Errors that end a run on JAX while it trains are reported as on TensorFlow."""

import re
import shutil

import pytest

from tests import tiny


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


def test_nonfinite_gradients_are_traced_to_a_layer(squares, train):
    result = train(squares, train__learning_rate=1e30, train__max_skipped=5)
    assert result.code == 1 and "Traceback" not in result.stderr, result
    error = result.stderr.splitlines()[-1]
    layer = r"the output of denoiser/[\w/]+ is the first non-finite value, at noise levels \d"
    assert re.search(f"not finite in 5 consecutive steps up to .*: {layer}", error), error
