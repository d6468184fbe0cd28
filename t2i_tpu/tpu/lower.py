"""One replica's programs as XLA's HLO, and what they cost before a compiler touches them."""

import dataclasses

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.profile.cost import activation_bytes, product_bytes, product_flops
from t2i_tpu.sample.generator import build_generator
from t2i_tpu.tpu.trace import zeros
from t2i_tpu.train.trainer import build_trainer

_FLOAT = 4  # bytes of a weight


@dataclasses.dataclass(frozen=True)
class Program:
    """What one replica runs.

    Attributes:
      hlo: a serialized HloModuleProto.
      product_flops: of its convolutions and matrix products, loop bodies once.
      product_bytes: of their operands and results.
      activation_bytes: of the forward pass's values that the backward pass's products read.
      optimizer_bytes: of the variables and gradients that the update reads and writes.
      gradient_bytes: to be summed over the replicas.
      state_bytes: of the weights, moments and averages.
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


def training_step(config: Config, manifest: Manifest, batch_size: int) -> Program:
    """Corrupt, forward, backward, clip, AdamW, averages: the step that training runs, of one replica
    with `batch_size` examples, under no strategy, where sums over replicas are nothing."""
    trainer = build_trainer(
        config, tf.distribute.get_strategy(), manifest, _policy(config), jit_compile=False
    )
    step = tf.function(trainer.replica_step, jit_compile=True, autograph=False)
    batch = next(iter(zeros(config, manifest, batch_size)))
    weights = _FLOAT * trainer.count_parameters()
    return dataclasses.replace(
        _program("training step", step, (batch,), batch_size),
        # The update reads the gradient, and reads and writes each variable.
        optimizer_bytes=(1 + 2 * (3 + len(config.train.ema_stds))) * weights,
        gradient_bytes=weights,
        state_bytes=(3 + len(config.train.ema_stds)) * weights,
    )


def sampler(config: Config, manifest: Manifest, batch_size: int = 8) -> Program:
    """Drawing `batch_size` images with the config's sampler, as previews do."""
    generator = build_generator(
        config, manifest, tf.distribute.get_strategy(), _policy(config), jit_compile=True
    )
    arguments = tf.nest.map_structure(tf.constant, generator.example_inputs(batch_size))
    return _program("sampler", generator.replica_images, arguments, batch_size)


def _policy(config):
    policy = config.train.dtype_policy
    return "mixed_bfloat16" if policy == "auto" else policy  # what TPUs multiply in


def _program(name, function, arguments, batch_size) -> Program:
    graph = function.get_concrete_function(*arguments).graph
    try:
        hlo = function.experimental_get_compiler_ir(*arguments)(
            stage="hlo_serialized", platform_name="CPU"
        )
    except ValueError as error:
        if "transfer manager" not in str(error):
            raise
        raise UserError(
            "TensorFlow's TPU build cannot compile on its host (keras #19448): run the preflight on a "
            "machine with t2i-tpu[cpu]"
        ) from error
    return Program(
        name,
        batch_size,
        hlo,
        product_flops(graph),
        product_bytes(graph),
        activation_bytes(graph, batch_size),
    )
