"""Writes the file from which benchmarks/gpu.py measures without TensorFlow."""

import dataclasses
import importlib
import math

import numpy as np
import tensorflow as tf

from benchmarks.on_gpu.cases import Case, Pack, write_pack
from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning, stack_conditions
from t2i_tpu.data.locate import locate
from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.engines.tensorflow.strategy import make_strategy
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.step.state import State

# Config -> the first batch size to measure. A large GPU computes such a step in tens of milliseconds.
BATCH_SIZES = {"emoji32": 1024, "clip64": 256, "cifar10": 512, "fashion_mnist": 1024}
# Config -> the number of examples to write.
NUM_EXAMPLES = {"emoji32": 10_000, "fashion_mnist": 4096}
# Config -> the conditions and the number of classes, if it is measured with random images instead.
SYNTHETIC = {
    "clip64": ConditionSpec({"embedding": ((768,), "float32")}),
    "cifar10": ConditionSpec({"label": ((), "int32")}, 10),
}
# The networks whose weights after some steps are written: emoji32 with these changes.
REFERENCES = {
    name: {"recipe": name, "model.widths": (32, 64, 96)} for name in ("modern", "baseline")
}
# The weights on another engine may differ by this share of their change in these steps. On a CPU, JAX
# differs by 7e-6 and 6e-4, and in bfloat16 by 0.17. The baseline's absolute loss has gradients that
# jump, and Adam turns a rounding error of a small gradient into a step in the other direction.
LIMITS = {"modern": 1e-3, "baseline": 1e-2}
NUM_HELDOUT = 8

SETTINGS = {"peak_size": 8192, "rounds": 3, "round_seconds": 0.7, "largest_batch_size": 2**17}
SMALL_SETTINGS = {"peak_size": 128, "rounds": 2, "round_seconds": 0.05, "largest_batch_size": 8}
SMALL_CHANGES = {
    "data.image_size": 16,
    "model.widths": (8,),
    "model.attention_levels": (True,),
    "model.block_depth": 1,
    "model.embedding_dim": 16,
    "train.global_batch_size": 8,
    "train.total_steps": 4,
    "train.warmup_steps": 2,
    "train.steps_per_loop": 2,
    "train.dtype_policy": "float32",
    "sample.steps": 2,
}


def pack(path: str, names: list[str], fashion_mnist: str, small: bool) -> None:
    """Write data, configs, and the weights that TensorFlow reaches on this machine.

    Args:
      path: the file to write.
      names: keys of BATCH_SIZES, the configs to measure. emoji32 must be one of them.
      fashion_mnist: source of Fashion MNIST, as in config.data.source.
      small: whether to make everything so small that a CPU can compute it.

    Raises:
      UserError: the data cannot be read.
    """
    changes = SMALL_CHANGES if small else {"train.dtype_policy": "mixed_bfloat16"}
    cases, arrays = {}, {}
    for name in names:
        config = _load_config(name, changes)
        entry, its_arrays = _pack_case(name, config, fashion_mnist)
        cases[name] = entry | {"batch_size": 8 if small else BATCH_SIZES[name]}
        arrays |= its_arrays
        if name == "emoji32":
            captions, pictured = _pack_picture(config)
            arrays |= pictured
    references = {"modern": {}} if small else REFERENCES
    for name, more in references.items():
        config = _load_config("emoji32", {**more, **changes})
        config.train.total_steps, config.train.warmup_steps = 5 if small else 20, 2
        config.train.dtype_policy = "float32"
        cases[name] = cases["emoji32"] | {"config": dataclasses.asdict(config)}
    settings = SMALL_SETTINGS if small else SETTINGS
    order = {"cases": names, "references": list(references)}
    about = {
        "cases": cases,
        "captions": captions,
        "limits": LIMITS,
        "settings": {**settings, **order},
    }
    for name in references:
        weights = train_reference(Pack(about, arrays).case(name))
        arrays |= {f"{name}/weights/{path}": value for path, value in weights.items()}
    write_pack(path, about, arrays)


def train_reference(case: Case) -> dict[str, np.ndarray]:
    """Train a case to its end in float32 on a CPU, and return the trained weights by path."""
    config, engine = case.config, TensorFlowEngine(make_strategy("cpu"))
    spec = ConditionSpec(case.fields, case.num_ids)
    with engine.scope():
        denoiser = build_denoiser(config, case.channels, spec, config.train.dtype_policy)
        state = State(config, denoiser)
    steps, batch_size = config.train.total_steps, config.train.global_batch_size

    def read_batches(host, num_hosts):
        batches = case.make_batches(batch_size, 0, steps)
        return disable_autotuning(tf.data.Dataset.from_tensor_slices(batches))

    iterator = engine.make_iterator(config, read_batches)
    engine.make_train_loop(config, state, jit_compile=False).run(iterator, steps)
    return {path: engine.read(state.weights[path]) for path in state.first_moments}


def _load_config(name: str, changes: dict[str, object]) -> Config:
    """Return the config of configs/NAME.py with other values for some fields, not resolved."""
    config = importlib.import_module(f"configs.{name}").get_config()
    for field, value in changes.items():
        *group, last = field.split(".")
        setattr(config_lib.get(config, group[0]) if group else config, last, value)
    if name == "fashion_mnist":
        config.data.image_size = 28
    return config


def _pack_case(name: str, config: Config, fashion_mnist: str) -> tuple[dict, dict]:
    """Return a case's entry in the JSON text, and its arrays."""
    if name in SYNTHETIC:
        channels, spec, arrays = 3, SYNTHETIC[name], {}
    else:
        dataset = _open(config, fashion_mnist if name == "fashion_mnist" else config.data.source)
        channels = dataset.manifest.channels
        spec = get_conditioning(config.model.conditioning).make_spec(dataset.manifest)
        arrays = _stack(name, dataset.examples("train", NUM_EXAMPLES[name]))
    denoiser = build_denoiser(config_lib.resolve(config), channels, spec, "float32")
    entry = {
        "config": dataclasses.asdict(config),
        "channels": channels,
        "fields": spec.fields,
        "num_ids": spec.num_ids,
        "arrays": name if arrays else None,
        "parameters": sum(math.prod(weight.shape) for weight in denoiser.trainable_variables),
    }
    return entry, arrays


def _pack_picture(config: Config) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the captions and the arrays of the picture: the config's preview, and held-out examples."""
    dataset, captions = _open(config, config.data.source), config.preview.captions
    examples = dataset.examples("train", len(captions), captions)
    examples += dataset.examples("heldout", NUM_HELDOUT)
    return [example["caption"] for example in examples], _stack("emoji32/picture", examples)


def _open(config: Config, source: str) -> Dataset:
    return open_dataset(locate(source), config.model.conditioning, config.data.image_size)


def _stack(name: str, examples: list[dict]) -> dict[str, np.ndarray]:
    """Return the images and conditions of examples as arrays whose names start with a prefix."""
    images = np.stack([example["image"] for example in examples])
    fields = {"image": images, **stack_conditions(examples)}
    return {f"{name}/{field}": values for field, values in fields.items()}
