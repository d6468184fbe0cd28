"""Imports TensorFlow fast, for processes that do not run user code.

TensorFlow and Keras also import packages that they do not need, if these are installed: matplotlib and
scikit-learn, with SciPy, for features of Keras that t2i_tpu does not use, and JAX for a converter. This
takes 1.3 of 3 seconds, so these packages are hidden during the import. They can be imported as usual
afterwards, but those features of Keras then treat them as missing.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

_OPTIONAL = ("matplotlib", "sklearn", "pandas")
_OPTIONAL_WITHOUT_JAX = ("jax", "scipy")  # JAX needs SciPy


@contextlib.contextmanager
def _hide_optional_packages() -> Iterator[None]:
    """Make imports of optional packages fail, unless they were imported before."""
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
    """Disable garbage collection in the block, and exclude its objects from later collections."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


with _hide_optional_packages(), _collect_no_garbage():
    from t2i_tpu.process import tensorflow_quietly  # noqa: F401
