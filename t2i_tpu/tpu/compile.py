"""Compiles programs with the TPU's own compiler, on a machine without a TPU.

libtpu contains the compiler, and jax is the way to call it. Neither can share a process with
TensorFlow, so compiler_process.py runs in a child process, in the environment that
compiler_environment.py installs.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
import time

from tensorflow.compiler.xla.service import hlo_pb2

from t2i_tpu.tpu import layout
from t2i_tpu.tpu.child import CompilationError, get_last_line, run_child
from t2i_tpu.tpu.hardware import Tpu
from t2i_tpu.tpu.lower import Program


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """The compiler's figures for one replica's program. Bytes are of HBM, with the padding of tiles.

    Attributes:
      argument_bytes: the weights, moments and averages, which are updated in place, and the batch.
      output_bytes: results that are not stored in the place of an argument.
      temporary_bytes: everything else that is alive when memory use is highest.
      code_bytes: the program itself.
      flops: floating-point operations, by the compiler's own count.
      traffic: bytes read from and written to HBM.
      cycles: cycles of the core, by the compiler's own model.
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
    padding_waste: float
    largest: list[tuple[str, int]]
    seconds: float

    @property
    def hbm_bytes(self) -> int:
        """All HBM that the program takes, in bytes."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


def compile_program(program: Program, tpu: Tpu, python: str, timeout: float) -> CompiledProgram:
    """Compile a program for one replica of a TPU.

    Args:
      program: the program.
      tpu: the TPU to compile it for.
      python: path of the environment's Python, from `prepare_environment`.
      timeout: seconds after which the compiler is stopped.

    Raises:
      CompilationError: the compiler failed, rejected the program or took too long.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # Run the compiler.
        path = os.path.join(folder, "program.hlo")
        pathlib.Path(path).write_bytes(program.hlo)
        script = os.path.join(os.path.dirname(__file__), "compiler_process.py")
        arguments = [path, tpu.topology, tpu.chip_config, folder, str(os.getpid())]
        task = f"compiling the {program.name} at batch {program.batch_size} for {tpu.generation}"
        _, output = run_child([python, "-I", script, *arguments], task, timeout)

        # Read its result and the compiled program.
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
