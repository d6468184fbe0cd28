"""Checks whether a run's checkpoints fit on the disk and its training step fits into memory."""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from t2i_tpu import installed
from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.hardware import choose_dtype_policy, list_gpus
from t2i_tpu.findings import OK, PROBLEM, WARNING, Finding
from t2i_tpu.models.denoiser import Denoiser, build_denoiser
from t2i_tpu.run import checkpoint_store
from t2i_tpu.storage import access


def check_capacity(config: Config, workdir: str | None, manifest: Manifest) -> Iterator[Finding]:
    """Build a config's model and yield findings about the disk space and memory that a run needs.

    Args:
      config: a resolved config.
      workdir: local or gs://. If it is None, the disk is not checked.
      manifest: the manifest of the data set.
    """
    policy = choose_dtype_policy(config.train, "gpu" if list_gpus() else "cpu")
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    denoiser = build_denoiser(config, manifest.channels, spec, policy)
    weights = sum(_count_bytes(weight) for weight in denoiser.variables)
    state = weights * (3 + len(config.train.ema_stds))  # weights, two moments, averages
    if workdir:
        yield check_disk(config, workdir, state)
    yield _check_memory(config, denoiser, state + weights)  # plus gradients


def check_disk(config: Config, workdir: str, checkpoint_bytes: int) -> Finding:
    """Compare the size of a run's checkpoints with the free space on the disk.

    Args:
      config: a resolved config.
      workdir: local or gs://, where the free space is not known.
      checkpoint_bytes: size of one checkpoint.
    """
    train = config.train
    periodic = train.total_steps // train.keep_every if train.keep_every else 0
    keep = train.keep_checkpoints + train.keep_best + periodic
    text = f"{_format_bytes(checkpoint_bytes)} per checkpoint, up to {keep} kept"
    free = access.free_bytes(workdir)
    if free is None:
        return Finding(OK, "disk", text)
    # A checkpoint is written before the oldest one is removed.
    used = access.used_bytes(checkpoint_store.get_folder(workdir))
    needed = checkpoint_bytes * (keep + 1) - used
    text += f": {_format_bytes(max(0, needed))} more needed, {_format_bytes(free)} free"
    if needed <= free:
        return Finding(OK, "disk", text)
    remedy = (
        "free some space, keep fewer checkpoints (config.train.keep_*), or use another --workdir"
    )
    return Finding(PROBLEM, "disk", text, remedy)


def _check_memory(config: Config, denoiser: Denoiser, state_bytes: int) -> Finding:
    """Compare the memory that training needs with the memory of a GPU, or else of the machine.

    Args:
      config: a resolved config.
      denoiser: the config's model.
      state_bytes: size of the training state and the gradients.
    """
    num_gpus = len(list_gpus())
    if num_gpus:
        free = min((gpu.memory for gpu in installed.list_gpus() if gpu.memory), default=None)
    else:
        free = get_available_memory()
    batch_size = math.ceil(config.train.global_batch_size / max(1, num_gpus))
    needed = state_bytes + count_forward_bytes(denoiser, batch_size)
    text = f"about {_format_bytes(needed)} needed (estimate)"
    if free is None:
        return Finding(OK, "memory", text)
    text += f", {_format_bytes(free)} {'on a GPU' if num_gpus else 'free'}"
    if needed <= free:
        return Finding(OK, "memory", text)
    remedy = "lower config.train.global_batch_size or config.model.widths, or close other programs"
    return Finding(WARNING, "memory", text, remedy)


def count_forward_bytes(denoiser: Denoiser, batch_size: int) -> int:
    """Return the size, in bytes, of all intermediate results of a forward pass.

    It is computed from their static shapes, and includes everything that is kept for the backward
    pass. The doctor's estimate for emoji32 was 0.9 GB at its own batch size and 5.1 GB at a batch
    size of 256. A process that trained it on a CPU grew by 1.0 GB and 2.5 GB.
    """
    condition = {
        name: tf.TensorSpec((batch_size, *shape), dtype)
        for name, (shape, dtype) in denoiser.condition_spec.fields.items()
    }
    images = tf.TensorSpec((batch_size, *denoiser.image_shape))
    specs = [images, tf.TensorSpec((batch_size,)), condition]

    def run_forward(*inputs):
        return denoiser(*inputs, training=True)

    is_jax = keras.backend.backend() == "jax"
    list_results = _list_jax_results if is_jax else _list_graph_results
    return sum(map(_count_bytes, list_results(run_forward, specs)))


def get_available_memory() -> int | None:
    """Return the free memory of this machine or container in bytes, or None if it is not known."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = (group / "memory.current").read_text().strip()
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def _list_graph_results(function: Callable, specs: list) -> list:
    """Return the tensors of static shape that a function computes with TensorFlow."""
    graph = tf.function(function).get_concrete_function(*specs).graph
    results = [result for operation in graph.get_operations() for result in operation.outputs]
    return [result for result in results if result.shape.is_fully_defined()]


def _list_jax_results(function: Callable, specs: list) -> list:
    """Return the abstract arrays that a function computes with JAX."""
    import jax

    from t2i_tpu.engines.jax.jaxprs import iter_inner

    arrays = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype.name), specs)
    results, pending = [], [jax.make_jaxpr(function)(*arrays)]
    while pending:
        jaxpr = pending.pop()
        for equation in jaxpr.eqns:
            inner = list(iter_inner(equation))
            pending += inner
            if not inner:
                results += [variable.aval for variable in equation.outvars]
    return results


def _count_bytes(array: Any) -> int:
    """Return the size of a variable, tensor or abstract array in bytes."""
    return math.prod(array.shape) * tf.as_dtype(array.dtype).size


def _format_bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
