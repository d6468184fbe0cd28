"""Imports TensorFlow quickly and without its output on stderr.

When it is imported, TensorFlow 2.21 prints a message about oneDNN whatever the log level is. If the
import fails, the output is shown.

TensorFlow and Keras also import packages that they do not need, if these are installed: matplotlib and
scikit-learn, with SciPy, for features of Keras that t2i_tpu does not use, and JAX for a converter. They
take 1.3 of 3 seconds, so they are hidden during the import. They can be imported as usual afterwards.
"""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator

from t2i_tpu.process import interrupts

_OPTIONAL = ("matplotlib", "sklearn", "pandas")
_OPTIONAL_WITHOUT_JAX = ("jax", "scipy")  # JAX needs SciPy


def _import_tensorflow() -> None:
    sys.stderr.flush()
    with tempfile.TemporaryFile() as output:
        stderr = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            with _hide_optional_packages(), _collect_no_garbage():
                import tensorflow  # noqa: F401
        except BaseException:
            if not interrupts.was_received():
                output.seek(0)
                os.write(stderr, output.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _hide_optional_packages() -> Iterator[None]:
    """Let imports of optional packages fail, unless they were imported before."""
    names = _OPTIONAL
    if os.environ.get("KERAS_BACKEND") != "jax":
        names += _OPTIONAL_WITHOUT_JAX
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # Python raises ImportError for None
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _collect_no_garbage() -> Iterator[None]:
    """Neither collect garbage in the block, nor look for any among its objects afterwards."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


_import_tensorflow()
