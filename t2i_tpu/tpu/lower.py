"""Lowers the programs of one replica to XLA's HLO, and counts their costs before compilation.

The costs are counted in TensorFlow's graph, which contains the same products as JAX's program.
"""

import copy
import dataclasses

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.hardware import choose_dtype_policy
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.errors import UserError
from t2i_tpu.profile.cost import count_activation_bytes, count_product_bytes, count_product_flops
from t2i_tpu.tpu.trace import make_zero_dataset
from t2i_tpu.training.trainer import Trainer, build_trainer

_WEIGHT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that one replica runs.

    Attributes:
      name: "training step" or "sampler".
      batch_size: number of images of the replica.
      hlo: a serialized HloModuleProto, or b"" for the JAX engine, which lowers its programs itself.
      product_flops: FLOPs of the convolutions and matrix products. Loop bodies count once.
      product_bytes: size of the operands and results of these products.
      activation_bytes: size of the activations that the products of the backward pass read.
      optimizer_bytes: bytes of variables and gradients that the update reads and writes.
      gradient_bytes: size of the gradients, which are summed over the replicas.
      state_bytes: size of the weights, moments and averages of a replica.
    """

    name: str
    batch_size: int
    hlo: bytes
    product_flops: int
    product_bytes: int
    activation_bytes: int
    optimizer_bytes: int = 0
    gradient_bytes: int = 0
    state_bytes: int = 0


def lower_training_step(
    config: Config, manifest: Manifest, batch_size: int, engine: str = "tensorflow", shards: int = 1
) -> Program:
    """Lower the training step of one replica: forward and backward pass, update and averages.

    No strategy is used, so the program has no sums over replicas.

    Args:
      config: a resolved config.
      manifest: the manifest of the data set.
      batch_size: number of images of the replica.
      engine: the engine that runs the step, "tensorflow" or "jax".
      shards: number of replicas over which the moments and averages are split.
    """
    trainer = _build_trainer(config, manifest, engine, jit_compile=False)
    step = tf.function(trainer.loop.replica_step, jit_compile=True, autograph=False)
    batch = next(iter(make_zero_dataset(config, manifest, batch_size)))
    weight_bytes = _WEIGHT_BYTES * trainer.count_parameters()
    # Each parameter has a weight, Adam's two moments and the averages.
    num_variables = 3 + len(config.train.ema_stds)
    return dataclasses.replace(
        _lower("training step", step, (batch,), batch_size, engine),
        # The update reads the gradient, and reads and writes each variable.
        optimizer_bytes=(1 + 2 * num_variables) * weight_bytes,
        gradient_bytes=weight_bytes,
        state_bytes=weight_bytes + (num_variables - 1) * weight_bytes // shards,
    )


def lower_sampler(
    config: Config, manifest: Manifest, engine: str = "tensorflow", batch_size: int = 8
) -> Program:
    """Lower the program that draws `batch_size` images with the config's sampler, as previews do."""
    generator = _build_trainer(config, manifest, engine, jit_compile=True).generator
    inputs = tf.nest.map_structure(tf.constant, generator.make_example_inputs(batch_size))
    infer = generator.get_program().infer_on_replica
    return _lower("sampler", infer, inputs, batch_size, engine)


def _build_trainer(config: Config, manifest: Manifest, engine: str, jit_compile: bool) -> Trainer:
    """Return TensorFlow's trainer of one replica, without a strategy."""
    if engine == "jax":
        config = copy.deepcopy(config)
        config.train.shard_state = False  # which TensorFlow cannot do; it only counts here
    policy = choose_dtype_policy(config.train, "tpu")
    replica = TensorFlowEngine(tf.distribute.get_strategy())
    return build_trainer(config, replica, manifest, policy, jit_compile)


def _lower(name: str, function, arguments, batch_size: int, engine: str) -> Program:
    graph = function.get_concrete_function(*arguments).graph
    return Program(
        name=name,
        batch_size=batch_size,
        hlo=_make_hlo(function, arguments) if engine == "tensorflow" else b"",
        product_flops=count_product_flops(graph),
        product_bytes=count_product_bytes(graph),
        activation_bytes=count_activation_bytes(graph, batch_size),
    )


def _make_hlo(function, arguments) -> bytes:
    try:
        return function.experimental_get_compiler_ir(*arguments)(
            stage="hlo_serialized", platform_name="CPU"
        )
    except ValueError as error:
        if "transfer manager" not in str(error):
            raise
        raise UserError(
            "TensorFlow's TPU build cannot compile on its host (keras #19448); run the preflight on "
            "a machine with t2i-tpu[cpu]"
        ) from error
