"""The TPU's real compiler compiles our programs. `make test-tpu-compile` runs these tests.

They take minutes, and install an environment of 1.1 GB into the cache folder.
"""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

import pytest

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.tpu import compile as compile_lib
from t2i_tpu.tpu import compiler_environment, hardware, lower, report
from t2i_tpu.tpu.assumed_data import find_manifest
from t2i_tpu.tpu.child import CompilationError
from t2i_tpu.tpu.compiler_environment import prepare_environment
from t2i_tpu.tpu.preflight import run_preflight

V5E = hardware.parse_tpu("v5e-1")

pytestmark = pytest.mark.host_xla
needs_compiler = pytest.mark.skipif(
    sys.version_info < compiler_environment.OLDEST_PYTHON, reason="its jax needs a newer Python"
)


def make_config(**train) -> Config:
    config = Config()
    config.model.widths = (32,)
    config.model.attention_levels = (False,)
    config.model.block_depth = 1
    config.model.embedding_dim = 64
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


def lower_step(batch_size) -> lower.Program:
    config = config_lib.resolve(make_config())
    manifest, _ = find_manifest(config)
    return lower.lower_training_step(config, manifest, batch_size)


@pytest.fixture(scope="module")
def step():
    return lower_step(64)


def test_figures_of_a_lowered_step_are_plausible(step):
    weights = step.gradient_bytes
    assert weights > 4e5
    # The weight, two moments and one average.
    assert step.state_bytes == 4 * weights
    assert step.optimizer_bytes == 9 * weights
    assert len(step.hlo) > 1e5
    assert step.batch_size == 64


@needs_compiler
def test_failed_installation_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    with pytest.raises(CompilationError, match="cannot install .*jax==0.10.2") as caught:
        prepare_environment(("jax==0.10.2",))
    assert caught.value.skipped
    assert list(tmp_path.iterdir()) == []


def test_old_python_is_rejected(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler_environment, "OLDEST_PYTHON", (3, 99))
    monkeypatch.setenv("T2I_TPU_CACHE", str(tmp_path))
    with pytest.raises(CompilationError, match="needs Python 3.99 or newer") as caught:
        prepare_environment()
    assert caught.value.skipped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.tpu_compile
@needs_compiler
def test_preflight_compiles_a_small_config():
    begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = run_preflight(make_config(global_batch_size=64), "v5e-1")
    # Processor time does not depend on other work on the machine, as wall-clock time does.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin < 300
    assert result.failures == []
    # 32 channels are narrow.
    assert all("tiles make" in note for note in result.notes)
    compiled = result.programs["training step"]
    # The arguments are the weights, moments and averages, with padding, and a few more.
    assert result.step.state_bytes < compiled.argument_bytes < 1.5 * result.step.state_bytes
    # Everything but the metrics is updated in place.
    assert compiled.output_bytes < 1e5
    assert 0.5 < compiled.flops / result.step.product_flops < 1.5
    assert 1 <= compiled.padding_waste < 8
    assert "sampler" in result.programs
    values = json.loads(report.to_json(result))
    assert values["passed"]
    assert values["programs"]["training step"]["hbm_needed"] > 0
    assert "No problems found for v5e-1." in report.to_text(result)


def test_compiler_of_jax_programs_imports_no_tensorflow():
    """Its environment has jax, libtpu and Keras only."""
    script = pathlib.Path(compile_lib.__file__).with_name("jax_compiler_process.py")
    lines = re.findall("^from t2i_tpu.+", script.read_text(), re.MULTILINE)
    lines.remove("from t2i_tpu.tpu import compiler_process")
    assert len(lines) > 4
    code = "\n".join([*lines, "import sys", "assert 'tensorflow' not in sys.modules"])
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


@pytest.mark.tpu_compile
@needs_compiler
@pytest.mark.parametrize(("tpu", "engine"), [("v5e-8", "jax"), ("v6e-16", "auto")])
def test_preflight_compiles_the_jax_engine(tpu, engine):
    config = make_config(global_batch_size=64, shard_state=tpu == "v6e-16")
    result = run_preflight(config, tpu, engine_name=engine)
    assert result.failures == []
    compiled = result.programs["training step"]
    # The arguments are the state of a device, and up to 64 MiB of batches of a host.
    assert result.step.state_bytes < compiled.argument_bytes < 1.5 * result.step.state_bytes + 2**23
    # Everything but the metrics is updated in place.
    assert compiled.output_bytes < 1e5
    # The program is that of one device. A step is in a loop, whose body counts once. With few images,
    # the update has a large share.
    assert 0.8 < compiled.flops / result.step.product_flops < 2
    # The gradients are summed in bfloat16 or in float32.
    assert 0.5 < compiled.summed_bytes / result.step.gradient_bytes < 2
    assert "sampler" in result.programs
    assert f"No problems found for {tpu}." in report.to_text(result)


@pytest.mark.tpu_compile
@needs_compiler
def test_batch_that_is_too_large_is_rejected():
    """It needs 20 GiB of temporaries, and a v5e chip has 16 GiB of HBM."""
    with pytest.raises(CompilationError, match="RESOURCE_EXHAUSTED.* HBM") as caught:
        compile_lib.compile_program(lower_step(2**17), V5E, prepare_environment(), timeout=300)
    assert V5E.hbm_bytes < caught.value.hbm_needed < 2 * V5E.hbm_bytes


@pytest.mark.slow
@needs_compiler
def test_largest_batch_is_named():
    """The compiler takes long for programs that nearly fill HBM."""
    result = run_preflight(make_config(global_batch_size=2**17), "v5e-1")
    rejection, advice = result.failures[:2]
    assert rejection.startswith("training step: RESOURCE_EXHAUSTED")
    assert "fits and needs" in advice
    batch = int(advice.split("batch of ")[1].split()[0])
    assert 2**15 < batch < 2**17
    assert batch % 8 == 0


@pytest.mark.tpu_compile
@needs_compiler
def test_compiler_is_stopped_after_the_time_limit(step):
    python = prepare_environment()
    with pytest.raises(CompilationError, match="at batch 64 for v5e-1 took more than 1 s"):
        compile_lib.compile_program(step, V5E, python, timeout=1)
    list_children = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    assert "compiler_process" not in subprocess.check_output(list_children, text=True)


@pytest.mark.tpu_compile
@needs_compiler
def test_compiler_exits_with_its_parent(step, tmp_path):
    path = tmp_path / "program.hlo"
    path.write_bytes(step.hlo)
    script = compile_lib.__file__.replace("compile.py", "compiler_process.py")
    command = [prepare_environment(), "-I", script, path, "v5e:2x2", "default", tmp_path]
    # The parent is a shell, which prints the process id of the compiler and exits at once.
    in_background = '"$@" $$ >/dev/null 2>&1 & echo $!'
    shell = subprocess.run(
        ["sh", "-c", in_background, "sh", *command], stdout=subprocess.PIPE, text=True
    )
    compiler = int(shell.stdout)
    for _ in range(600):
        if not os.path.exists(f"/proc/{compiler}"):
            break
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{compiler}")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.tpu_compile
@needs_compiler
def test_invalid_program_is_rejected():
    broken = lower.Program("step", 64, b"no HLO", 0, 0, 0)
    with pytest.raises(CompilationError):
        compile_lib.compile_program(broken, V5E, prepare_environment(), timeout=60)
