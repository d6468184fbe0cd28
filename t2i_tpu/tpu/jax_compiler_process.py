"""Compiles the JAX engine's programs for all devices of a TPU slice, without a TPU.

compile.py runs this script in the environment of compiler_process.py, which also has Keras:

  python -I jax_compiler_process.py REQUEST FOLDER PARENT

REQUEST is a JSON file from `compile.compile_with_jax`. The results are those of compiler_process.py.
No array is placed on a device: the programs are compiled for shapes.
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

# This module must be the first, because it sets variables that jax and libtpu read.
from t2i_tpu.tpu import compiler_process

# isort: split
import jax
import numpy as np
from keras import tree

from t2i_tpu import config as config_lib
from t2i_tpu.engines.jax import program
from t2i_tpu.engines.jax.feed import count_block_steps
from t2i_tpu.models.conditioning import ConditionSpec
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.sample.generator import Generator
from t2i_tpu.step.state import State


def compile_request(path):
    """Compile the program that the file at `path` describes."""
    request = json.loads(pathlib.Path(path).read_text())
    config = config_lib.from_dict(request["config"])
    devices = compiler_process.list_devices(request["topology"], request["chip_config"])
    mesh = jax.sharding.Mesh(np.array(devices), (program.AXIS,))
    fields = {name: (tuple(shape), dtype) for name, (shape, dtype) in request["fields"].items()}
    spec = ConditionSpec(fields, request["num_ids"])
    denoiser = build_denoiser(config, request["channels"], spec, config.train.dtype_policy)
    lower = {"training step": lower_train_steps, "sampler": lower_sampler}[request["program"]]
    lowered = lower(config, denoiser, mesh, request["num_hosts"])
    assert "tensorflow" not in sys.modules
    return lowered.compile().runtime_executable()


def lower_train_steps(config, denoiser, mesh, num_hosts):
    """Lower the train loop over a block of batches of the size that the engine feeds."""
    state, batch_size = State(config, denoiser), config.train.global_batch_size
    batch = {
        "image": np.empty((batch_size, *denoiser.image_shape), np.uint8),
        "condition": denoiser.condition_spec.null(batch_size),
        "slot": np.empty(batch_size, np.int32),
    }
    host_bytes = sum(array.nbytes for array in tree.flatten(batch)) // num_hosts
    count = count_block_steps(host_bytes, config.train.steps_per_loop)
    split, copied = program.split_batch(mesh, axis=1), program.replicate(mesh)
    shardings = program.choose_state_shardings(config, state, mesh)
    arguments = (
        [describe(*pair) for pair in zip(state.list_variables(), shardings, strict=True)],
        tree.map_structure(lambda array: describe(array, split, (count, *array.shape)), batch),
        *[jax.ShapeDtypeStruct((), "int32", sharding=copied)] * 2,
    )
    return program.compile_train_steps(config, state, mesh).lower(*arguments)


def lower_sampler(config, denoiser, mesh, _):
    """Lower the function that draws a batch of previews on all devices."""
    weights = {variable.path: variable for variable in denoiser.variables}
    generator = Generator(_Slice(mesh), denoiser, weights, config.sample, jit_compile=True)
    split, copied = program.split_batch(mesh), program.replicate(mesh)
    inputs, table = generator.make_example_inputs(generator.batch_size)
    return generator.get_program().lower(
        [describe(variable, copied) for variable in denoiser.variables],
        tree.map_structure(lambda array: describe(array, split), inputs),
        tree.map_structure(lambda array: describe(array, copied), table),
    )


class _Slice:
    """The part of an engine that Generator uses."""

    def __init__(self, mesh):
        self.mesh, self.num_replicas = mesh, mesh.size

    def compile_inference(self, function, weights, jit_compile):
        return program.compile_inference(function, [old for old, _ in weights], self.mesh)

    def compiles_per_batch_size(self, jit_compile):
        return True

    def trace_once(self, function, jit_compile):
        return function


def describe(array, sharding, shape=None):
    """Return the shape, type and sharding of an array or a variable, as JAX compiles for them."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct(shape or array.shape, dtype, sharding=sharding)


if __name__ == "__main__":
    path, folder, parent = sys.argv[1:]
    compiler_process.write_results(lambda: compile_request(path), folder, parent)
