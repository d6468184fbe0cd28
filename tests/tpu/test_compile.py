"""The real TPU compiler on real programs of ours. `make test-tpu-compile`: minutes, and an
environment of 1.1 GB in the cache folder, which preflight makes itself."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.tpu import compile as compile_lib
from t2i_tpu.tpu import hardware, lower, preflight, report
from t2i_tpu.tpu.assumed_data import find_manifest

V5E = hardware.parse("v5e-1")

pytestmark = pytest.mark.host_xla
needs_compiler = pytest.mark.skipif(
    sys.version_info < compile_lib.OLDEST_PYTHON, reason="its jax needs a newer Python"
)


def small(**train) -> Config:
    config = Config()
    config.model.widths = (32,)
    config.model.attention_levels = (False,)
    config.model.block_depth = 1
    config.model.embedding_dim = 64
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def step():
    config = config_lib.resolve(small())
    return lower.training_step(config, find_manifest(config)[0], 64)


def test_figures_of_a_step(step):
    weights = step.gradient_bytes
    assert weights > 4e5 and step.state_bytes == 4 * weights  # weight, two moments, one average
    assert step.optimizer_bytes == 9 * weights
    assert len(step.hlo) > 1e5 and step.batch_size == 64


@needs_compiler
def test_an_environment_that_cannot_be_made(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    with pytest.raises(compile_lib.NotCompiled, match="cannot be made: .*jax==0.10.2") as caught:
        compile_lib.environment(("jax==0.10.2",))
    assert caught.value.skipped
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_is_too_old(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_lib, "OLDEST_PYTHON", (3, 99))
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    with pytest.raises(compile_lib.NotCompiled, match="needs Python 3.99 or newer") as caught:
        compile_lib.environment()
    assert caught.value.skipped and list(tmp_path.iterdir()) == []


@pytest.mark.tpu_compile
@needs_compiler
def test_small_config_for_v5e():
    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    found = preflight.preflight(small(global_batch_size=64), "v5e-1")
    # Of one core: how long it took depends on what else the machine does.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin < 300
    assert found.failures == []
    assert all("tiles make" in note for note in found.notes)  # 32 channels are narrow
    compiled = found.programs["training step"]
    # The weights and their like are its arguments, up to tiles and a few more.
    assert found.step.state_bytes < compiled.argument_bytes < 1.5 * found.step.state_bytes
    assert compiled.output_bytes < 1e5  # all the rest is updated in place
    assert 0.5 < compiled.flops / found.step.product_flops < 1.5
    assert 1 <= compiled.padding_waste < 8
    assert "sampler" in found.programs
    values = json.loads(report.to_json(found))
    assert values["passed"] and values["programs"]["training step"]["hbm_needed"] > 0
    assert "Nothing speaks against v5e-1." in report.to_text(found)


@pytest.mark.tpu_compile
@needs_compiler
def test_too_large_a_batch_is_refused():
    """20 GiB of temporaries where v5e has 16."""
    config = config_lib.resolve(small())
    program = lower.training_step(config, find_manifest(config)[0], 2**17)
    with pytest.raises(compile_lib.NotCompiled, match="RESOURCE_EXHAUSTED.* HBM") as caught:
        compile_lib.compile_for(program, V5E, compile_lib.environment(), timeout=300)
    assert V5E.hbm_bytes < caught.value.hbm_needed < 2 * V5E.hbm_bytes


@pytest.mark.slow
@needs_compiler
def test_the_largest_batch_is_named():
    """Near the end of HBM the compiler takes long."""
    found = preflight.preflight(small(global_batch_size=2**17), "v5e-1")
    refused, advice = found.failures[:2]
    assert refused.startswith("training step: RESOURCE_EXHAUSTED")
    assert "fits, compiled to" in advice
    batch = int(advice.split("batch of ")[1].split()[0])
    assert 2**15 < batch < 2**17 and batch % 8 == 0


@pytest.mark.tpu_compile
@needs_compiler
def test_a_compiler_that_takes_too_long_is_stopped(step):
    python = compile_lib.environment()
    with pytest.raises(compile_lib.NotCompiled, match="at batch 64 for v5e took more than 1 s"):
        compile_lib.compile_for(step, V5E, python, timeout=1)
    children = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    assert "compiler_process" not in subprocess.check_output(children, text=True)


@pytest.mark.tpu_compile
@needs_compiler
def test_a_compiler_ends_with_who_called_it(step, tmp_path):
    path = tmp_path / "program.hlo"
    path.write_bytes(step.hlo)
    script = compile_lib.__file__.replace("compile.py", "compiler_process.py")
    command = [compile_lib.environment(), "-I", script, path, "v5e:2x2", "default", tmp_path]
    shell = subprocess.run(
        ["sh", "-c", '"$@" $$ >/dev/null 2>&1 & echo $!', "sh", *command], stdout=-1, text=True
    )
    compiler = int(shell.stdout)  # its parent, the shell, is gone
    for _ in range(600):
        if not os.path.exists(f"/proc/{compiler}"):
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{compiler}")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.tpu_compile
@needs_compiler
def test_what_is_no_program_is_refused(step):
    broken = lower.Program("step", 64, b"no HLO", 0, 0, 0)
    with pytest.raises(compile_lib.NotCompiled):
        compile_lib.compile_for(broken, V5E, compile_lib.environment(), timeout=60)
