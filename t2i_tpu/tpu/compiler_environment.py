"""Installs the Python environment of the TPU's compiler into the cache folder, on first use."""

import os
import sys

from t2i_tpu.storage import folders
from t2i_tpu.storage.cache import get_cache_folder
from t2i_tpu.tpu.child import CompilationError, get_last_line, run_child

# compiler_process.py calls jax's internals, which change between versions, so these are exact.
REQUIREMENTS = ("jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.52", "keras==3.15.1")

# The oldest Python that this version of jax supports.
OLDEST_PYTHON = (3, 11)

_INSTALL_SECONDS = 1200


def prepare_environment(requirements: tuple[str, ...] = REQUIREMENTS) -> str:
    """Return the path of the environment's Python, installing it first if it does not exist.

    The installation takes minutes, and about 1.1 GB of disk space.

    Args:
      requirements: packages with their versions, for pip.

    Raises:
      CompilationError: it cannot be installed, for example because there is no network.
    """
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST_PYTHON:
        oldest = "{}.{}".format(*OLDEST_PYTHON)
        raise CompilationError(
            f"{requirements[0]} needs Python {oldest} or newer, but this is {version}; install "
            "t2i-tpu with a newer one (run make clean, and set PYTHON for the next make)",
            skipped=True,
        )
    name = "-".join(["tpu-compiler", f"python{version}", *requirements]).replace("==", "")
    folder = os.path.join(get_cache_folder(), name)
    if not _has_python(folder):
        try:
            _install(requirements, folder)
        except OSError as error:
            raise CompilationError(
                f"cannot install the compiler's environment into {get_cache_folder()}: {error}",
                skipped=True,
            ) from error
    return _get_python(folder)


def _install(requirements: tuple[str, ...], folder: str) -> None:
    """Create an environment with the requirements in `folder`, completely or not at all."""
    task = f"installing {', '.join(requirements)} into {folder} (only once)"
    with folders.create_atomically(folder, is_complete=_has_python) as unfinished:
        # Compiling all of jax to bytecode would take longer than importing the little that is used.
        pip = [_get_python(unfinished), "-m", "pip", "install", "--quiet", "--no-compile"]
        for command in ([sys.executable, "-m", "venv", unfinished], [*pip, *requirements]):
            code, output = run_child(command, task, _INSTALL_SECONDS)
            if code:
                raise CompilationError(
                    f"cannot install the compiler's environment: {get_last_line(output)}",
                    skipped=True,
                )


def _get_python(environment: str) -> str:
    return os.path.join(environment, "bin", "python")


def _has_python(environment: str) -> bool:
    return os.path.exists(_get_python(environment))
