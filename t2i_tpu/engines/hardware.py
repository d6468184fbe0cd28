"""The GPUs that Keras' backend sees, and the precision that suits the hardware."""

import dataclasses
import re

import keras

from t2i_tpu.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU that the backend can use.

    Attributes:
      name: the model.
      capability: the compute capability, such as "7.0", or None if it is not known.
    """

    name: str
    capability: str | None


def list_gpus() -> list[Gpu]:
    """Return the GPUs that the backend sees, without connecting to other processes."""
    if keras.backend.backend() == "jax":
        import jax

        try:
            devices = jax.local_devices(backend="gpu")
        except RuntimeError:
            return []
        return [Gpu(gpu.device_kind, _get_jax_capability(gpu)) for gpu in devices]
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [
        Gpu(
            detail.get("device_name", gpu.name),
            ".".join(map(str, detail.get("compute_capability", ()))) or None,
        )
        for gpu, detail in zip(gpus, details, strict=True)
    ]


def _get_jax_capability(gpu) -> str | None:
    """Return the compute capability of JAX's device for a GPU. One of AMD has a name instead."""
    capability = str(getattr(gpu, "compute_capability", ""))
    return capability if re.fullmatch(r"\d+\.\d+", capability) else None


def choose_dtype_policy(train: TrainConfig, hardware: str) -> str:
    """Return the Keras dtype policy of a config.

    "auto" means mixed_bfloat16 if the hardware multiplies bfloat16 fast, mixed_float16 if it
    multiplies only float16 fast, and float32 otherwise.

    Args:
      train: the `train` group of a config.
      hardware: "cpu", "gpu" or "tpu".
    """
    if train.dtype_policy != "auto":
        return train.dtype_policy
    if hardware == "gpu":
        capability = tuple(map(int, (list_gpus()[0].capability or "0").split(".")))
        if capability >= (7, 0):
            return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
        return "float32"
    return "mixed_bfloat16" if hardware == "tpu" or _cpu_multiplies_bfloat16() else "float32"


def _cpu_multiplies_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
