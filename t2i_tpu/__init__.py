"""Text-to-image diffusion models: training and sampling with Keras and tf.distribute.

  import t2i_tpu

  model = t2i_tpu.load("runs/emoji32")
  images = model.sample(["a red heart", "pizza"], num_images=4)
  images.save("grid.png")

TensorFlow is imported when `load` or `train` is called.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# The names of the Python interface, and the modules that define them.
_MODULES = {
    "Config": "t2i_tpu.config",
    "Drawing": "t2i_tpu.api.prompts",
    "Images": "t2i_tpu.sample.images",
    "Model": "t2i_tpu.api.model",
    "UserError": "t2i_tpu.errors",
    "load": "t2i_tpu.api.load",
    "read_records": "t2i_tpu.sample.picture_files",
    "train": "t2i_tpu.api.train",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
