"""The TPU's own compiler, on a machine without a TPU, in an environment of its own.

libtpu holds the compiler and jax the way to it; neither gets on with the TensorFlow of this process,
so that a child does the work (compiler_process.py) in an environment that is made on first use.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from tensorflow.compiler.xla.service import hlo_pb2

from t2i_tpu.cache import get_cache_folder
from t2i_tpu.storage import folders
from t2i_tpu.tpu import layout
from t2i_tpu.tpu.hardware import Tpu
from t2i_tpu.tpu.lower import Program

# The compiler's interface is jax's own and changes: these three go together.
REQUIREMENTS = ("jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.52")
OLDEST_PYTHON = 3, 11  # for which this jax is there
INSTALL_SECONDS = 1200


class NotCompiled(Exception):
    """Why the compiler gave no program: it was not to be had, took too long, or refused.

    Attributes:
      skipped: the compiler never saw the program.
      hbm_needed: bytes, where it refused for want of memory.
    """

    def __init__(self, reason: str, skipped: bool = False, hbm_needed: int | None = None):
        super().__init__(reason)
        self.skipped, self.hbm_needed = skipped, hbm_needed


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program, for one replica; bytes are of HBM, tiles included.

    Attributes:
      argument_bytes: weights, moments, averages, batch; updated in place.
      temporary_bytes: all else that is alive at the fullest moment.
      flops: by the compiler's own count.
      traffic: bytes from and to HBM.
      cycles: of the core, by the compiler's own model of it.
      padding_waste: bytes of its arrays with tiles over bytes without.
      largest: layers and the bytes of what they leave in HBM, some of it one after the other.
    """

    argument_bytes: int
    output_bytes: int  # not in an argument's place
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
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


def compile_for(program: Program, tpu: Tpu, python: str, timeout: float) -> Compiled:
    """Compiles a program for one replica of a TPU.

    Args:
      python: of `environment`.
      timeout: seconds, after which the compiler is stopped.

    Raises:
      NotCompiled: with the compiler's reason.
    """
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.hlo")
        pathlib.Path(path).write_bytes(program.hlo)
        script = os.path.join(os.path.dirname(__file__), "compiler_process.py")
        command = [python, "-I", script, path, tpu.topology, tpu.chip_config, folder]
        command.append(str(os.getpid()))
        what = f"compiling the {program.name} at batch {program.batch_size} for {tpu.generation}"
        _, output = _run(command, what, timeout)
        try:
            with open(os.path.join(folder, "result.json")) as file:
                result = json.load(file)
        except (OSError, ValueError):
            raise NotCompiled(f"the compiler broke off: {_last_line(output)}") from None
        if "error" in result:
            raise _refused(result["error"], program)
        module = hlo_pb2.HloModuleProto()
        with open(os.path.join(folder, "module.pb"), "rb") as file:
            module.ParseFromString(file.read())
    arrays = list(layout.arrays(module))
    return Compiled(
        argument_bytes=result["argument_bytes"],
        output_bytes=result["output_bytes"] - result["alias_bytes"],
        temporary_bytes=result["temporary_bytes"],
        code_bytes=result["code_bytes"],
        flops=result["flops"],
        traffic=layout.hbm_traffic(module),
        cycles=layout.estimated_cycles(module),
        padding_waste=layout.padding_waste(arrays),
        largest=layout.largest_temporaries(arrays),
        seconds=time.monotonic() - begin,
    )


def environment(requirements: tuple[str, ...] = REQUIREMENTS) -> str:
    """The Python of the compiler's environment, which is made in the cache folder where it is not
    there yet (some 1.1 GB, minutes).

    Raises:
      NotCompiled: it cannot be made, as without a network.
    """
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST_PYTHON:
        oldest = "{}.{}".format(*OLDEST_PYTHON)
        raise NotCompiled(
            f"{requirements[0]} needs Python {oldest} or newer, and this is {version}; install "
            "t2i-tpu under a newer one (make clean, then PYTHON=... for make)",
            skipped=True,
        )
    name = "-".join(["tpu-compiler", f"python{version}", *requirements]).replace("==", "")
    final = os.path.join(get_cache_folder(), name)
    python = os.path.join(final, "bin", "python")
    if _has_python(final):
        return python
    what = f"installing {', '.join(requirements)} into {final}, once"
    try:
        with folders.create_atomically(final, is_complete=_has_python) as making:
            pip = [os.path.join(making, "bin", "python"), "-m", "pip", "install", "--quiet"]
            pip.append("--no-compile")  # of all that jax brings little is imported
            for command in ([sys.executable, "-m", "venv", making], [*pip, *requirements]):
                code, output = _run(command, what, INSTALL_SECONDS)
                if code:
                    raise NotCompiled(
                        f"its environment cannot be made: {_last_line(output)}", skipped=True
                    )
    except OSError as error:
        raise NotCompiled(
            f"its environment cannot be made in {get_cache_folder()}: {error}", skipped=True
        ) from error
    return python


def _has_python(environment: str) -> bool:
    return os.path.exists(os.path.join(environment, "bin", "python"))


def _run(command, what, timeout) -> tuple[int, str]:
    """Runs a child with a line of progress on stderr; its exit code and what it printed."""
    begin = last = time.monotonic()
    interactive = sys.stderr.isatty()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            while child.poll() is None:
                seconds = time.monotonic() - begin
                if seconds > timeout:
                    raise NotCompiled(f"{what} took more than {timeout:.0f} s and was stopped")
                if seconds - (last - begin) >= (1 if interactive else 60):
                    last = time.monotonic()
                    print(
                        f"{what}: {seconds:.0f} s",
                        end="\r" if interactive else "\n",
                        file=sys.stderr,
                    )
                time.sleep(0.1)
        finally:
            if interactive:
                print("\033[K", end="", file=sys.stderr)
            child.kill()
            child.wait()
        output.seek(0)
        return child.returncode, output.read()


def _refused(error: str, program: Program) -> NotCompiled:
    """RESOURCE_EXHAUSTED: ... required for HLO temporaries (19.74G) exceeds available HBM (15.75G)..."""
    temporaries = re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", error)
    needed = None
    if temporaries:
        needed = program.state_bytes + int(
            float(temporaries[1]) * 1024 ** ("KMGT".index(temporaries[2]) + 1)
        )
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return NotCompiled(" ".join(lines[:3])[:400], hbm_needed=needed)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
