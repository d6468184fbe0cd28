"""Compiles programs with the TPU's own compiler, on a machine without a TPU.

libtpu contains the compiler, and jax is the way to call it. Neither can share a process with
TensorFlow, so child processes call it, in the environment that compiler_environment.py installs.
compiler_process.py compiles what TensorFlow lowered for one replica. jax_compiler_process.py compiles
the JAX engine's own programs for all devices of a slice.
"""

import copy
import dataclasses
import json
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence

from tensorflow.compiler.xla.service import hlo_pb2

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.hardware import choose_dtype_policy
from t2i_tpu.tpu import layout
from t2i_tpu.tpu.child import CompilationError, get_last_line, run_child
from t2i_tpu.tpu.hardware import Tpu
from t2i_tpu.tpu.lower import Program


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """The compiler's figures for the program of a replica. Bytes are of HBM, with the padding of tiles.

    Attributes:
      argument_bytes: the weights, moments and averages, which are updated in place, and the batch.
      output_bytes: results that are not stored in the place of an argument.
      temporary_bytes: everything else that is alive when memory use is highest.
      code_bytes: the program itself.
      flops: floating-point operations, by the compiler's own count.
      traffic: bytes read from and written to HBM.
      cycles: cycles of the core, by the compiler's own model.
      exchanged_bytes: bytes of the arrays that the replicas sum or otherwise exchange, by the kind of
        operation; empty if the program is for one replica.
      padding_waste: size of the arrays with padding, divided by their size without it.
      largest: the layers that write the most bytes to HBM, with these bytes, not all of which are
        alive at the same time.
      seconds: duration of the compilation.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    code_bytes: int
    flops: float
    traffic: int
    cycles: int
    exchanged_bytes: dict[str, int]
    padding_waste: float
    largest: list[tuple[str, int]]
    seconds: float

    @property
    def summed_bytes(self) -> float:
        """The size of a sum over the replicas that would take as long as all exchanges, in bytes.

        A ring sends twice as many bytes for a sum as for the other operations.
        """
        total = sum(self.exchanged_bytes.values())
        return (total + self.exchanged_bytes.get("all-reduce", 0)) / 2

    @property
    def hbm_bytes(self) -> int:
        """All HBM that the program takes, in bytes."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


def compile_program(program: Program, tpu: Tpu, python: str, timeout: float) -> CompiledProgram:
    """Compile TensorFlow's program for one replica of a TPU.

    Args:
      program: the program.
      tpu: the TPU to compile it for.
      python: path of the environment's Python, from `prepare_environment`.
      timeout: seconds after which the compiler is stopped.

    Raises:
      CompilationError: the compiler failed, rejected the program or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.hlo")
        pathlib.Path(path).write_bytes(program.hlo)
        script = _get_script("compiler_process")
        command = [python, "-I", script, path, tpu.topology, tpu.chip_config]
        return _run_compiler(command, program, tpu, folder, timeout)


def compile_with_jax(
    program: Program,
    config: Config,
    manifest: Manifest,
    tpu: Tpu,
    python: str,
    timeout: float,
) -> CompiledProgram:
    """Compile a program of the JAX engine for all devices of a TPU.

    Args:
      program: names the program, and has the batch size of a replica.
      config: a resolved config, whose batch size and dtype policy are replaced.
      manifest: the manifest of the data set.
      tpu, python, timeout: see `compile_program`.

    Raises:
      CompilationError: the compiler failed, rejected the program or took too long.
    """
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    config = copy.deepcopy(config)
    config.train.global_batch_size = program.batch_size * tpu.num_replicas
    config.train.dtype_policy = choose_dtype_policy(config.train, "tpu")
    request = {
        "program": program.name,
        "config": dataclasses.asdict(config),
        "channels": manifest.channels,
        **dataclasses.asdict(spec),
        "topology": tpu.topology,
        "chip_config": tpu.chip_config,
        "num_hosts": tpu.num_hosts,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "request.json")
        pathlib.Path(path).write_text(json.dumps(request))
        command = [python, "-I", _get_script("jax_compiler_process"), path]
        return _run_compiler(command, program, tpu, folder, timeout)


def hbm_needed(program: Program, compiled: CompiledProgram) -> int:
    """Return the bytes of HBM that a program needs.

    This is the compiler's figure, unless its temporaries are much smaller than the activations that the
    backward pass must read. The compiler then keeps activations in memory that it did not count, so
    the size of the activations replaces that of the temporaries.
    """
    temporary_bytes = compiled.temporary_bytes
    if 2 * temporary_bytes >= program.activation_bytes:
        return compiled.hbm_bytes
    return compiled.hbm_bytes - temporary_bytes + program.activation_bytes


def _get_script(name: str) -> str:
    return os.path.join(os.path.dirname(__file__), f"{name}.py")


def _run_compiler(
    command: Sequence[str], program: Program, tpu: Tpu, folder: str, timeout: float
) -> CompiledProgram:
    """Run a compiler's command, with the last arguments FOLDER and PARENT, and read its results."""
    begin = time.monotonic()
    task = f"compiling the {program.name} at batch {program.batch_size} for {tpu.name}"
    _, output = run_child([*command, folder, str(os.getpid())], task, timeout)

    # Read the compiler's figures and the compiled program.
    try:
        with open(os.path.join(folder, "result.json")) as file:
            result = json.load(file)
    except (OSError, ValueError):
        raise CompilationError(f"the compiler crashed: {get_last_line(output)}") from None
    if "error" in result:
        raise _parse_compiler_error(result["error"], program)
    module = hlo_pb2.HloModuleProto()
    with open(os.path.join(folder, "module.pb"), "rb") as file:
        module.ParseFromString(file.read())

    # Collect the figures.
    arrays = list(layout.iter_arrays(module))
    return CompiledProgram(
        argument_bytes=result["argument_bytes"],
        output_bytes=result["output_bytes"] - result["alias_bytes"],
        temporary_bytes=result["temporary_bytes"],
        code_bytes=result["code_bytes"],
        flops=result["flops"],
        traffic=layout.count_hbm_traffic(module),
        cycles=layout.sum_estimated_cycles(module),
        exchanged_bytes=layout.count_exchanged_bytes(module),
        padding_waste=layout.padding_waste(arrays),
        largest=layout.find_largest_temporaries(arrays),
        seconds=time.monotonic() - begin,
    )


def _parse_compiler_error(error: str, program: Program) -> CompilationError:
    """Return the compiler's error as one line.

    If the program does not fit, the error also has the HBM that it needs, from the compiler's
    message: RESOURCE_EXHAUSTED: ... required for HLO temporaries (19.74G) exceeds
    available HBM (15.75G)...
    """
    match = re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", error)
    needed = None
    if match:
        unit = 1024 ** ("KMGT".index(match[2]) + 1)
        needed = program.state_bytes + int(float(match[1]) * unit)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return CompilationError(" ".join(lines[:3])[:400], hbm_needed=needed)
