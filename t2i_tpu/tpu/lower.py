"""One replica's programs as XLA's HLO, and what they cost before a compiler touches them."""

import dataclasses
import math

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.schema import Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.profile.cost import activation_bytes, product_bytes, product_flops
from t2i_tpu.sample.generate import generate, to_uint8
from t2i_tpu.tpu.trace import zeros
from t2i_tpu.train.state import TrainState, make_denoiser, set_policy
from t2i_tpu.train.step import make_replica_step

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
    state = TrainState(config, manifest, _policy(config), tf.distribute.get_strategy())
    step = tf.function(
        make_replica_step(config, state, jit_compile=False), jit_compile=True, autograph=False
    )
    batch = next(iter(zeros(config, manifest, batch_size)))
    weights = _FLOAT * sum(math.prod(weight.shape) for weight in state.weights)
    return dataclasses.replace(
        _program("training step", step, (batch,), batch_size),
        # The update reads the gradient, and reads and writes each variable.
        optimizer_bytes=(1 + 2 * (3 + len(config.train.ema_stds))) * weights,
        gradient_bytes=weights,
        state_bytes=(3 + len(config.train.ema_stds)) * weights,
    )


def sampler(config: Config, manifest: Manifest, batch_size: int = 8) -> Program:
    """Drawing `batch_size` images with the config's sampler, as previews do."""
    set_policy(_policy(config))
    denoiser = make_denoiser(config, manifest)

    @tf.function(jit_compile=True, autograph=False)
    def images(condition, noise):
        return tf.cast(to_uint8(generate(denoiser, condition, noise, config.sample)), tf.int32)

    shape = denoiser.condition_shape
    arguments = (
        tf.zeros(shape.batch(batch_size), shape.dtype),
        tf.zeros([batch_size, *denoiser.image_shape]),
    )
    return _program("sampler", images, arguments, batch_size)


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
