"""One replica's programs as XLA's HLO, and what they cost before a compiler touches them."""

import dataclasses
import math

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.schema import Manifest
from t2i_tpu.evaluate.cost import activation_bytes, product_bytes, product_flops
from t2i_tpu.models.generate import generate, to_uint8
from t2i_tpu.train.state import TrainState, condition_shape, make_denoiser, set_policy
from t2i_tpu.train.step import make_replica_step

POLICY = "mixed_bfloat16"  # what TPUs multiply in
# A step reads and writes a weight, its two moments and each average once; and reads its gradient.
_FLOAT = 4


@dataclasses.dataclass(frozen=True)
class Program:
    """What one replica runs.

    Attributes:
      hlo: a serialized HloModuleProto.
      product_flops: of its convolutions and matrix products, loop bodies once.
      product_bytes: of their operands and results, and of the optimizer's variables.
      activation_bytes: of the forward pass's values that the backward pass reads.
      gradient_bytes: to be summed over the replicas.
    """

    name: str
    batch_size: int
    hlo: bytes
    product_flops: int
    product_bytes: int
    activation_bytes: int
    gradient_bytes: int


def training_step(config: Config, manifest: Manifest, batch_size: int) -> Program:
    """Corrupt, forward, backward, clip, AdamW, averages: the step that training runs, of one replica
    with `batch_size` examples, under no strategy, where sums over replicas are nothing."""
    state = TrainState(config, manifest, POLICY, tf.distribute.get_strategy())
    step = tf.function(
        make_replica_step(config, state, jit_compile=False), jit_compile=True, autograph=False
    )
    condition = condition_shape(config, manifest)
    size = config.data.image_size
    batch = {
        "image": tf.zeros([batch_size, size, size, manifest.channels], tf.uint8),
        "condition": tf.zeros(condition.batch(batch_size), condition.dtype),
        "slot": tf.zeros([batch_size], tf.int32),
    }
    weights = _FLOAT * sum(math.prod(weight.shape) for weight in state.weights)
    variables = 3 + len(config.train.ema_stds)
    return _program(
        "training step", step, (batch,), batch_size, (2 * variables + 1) * weights, weights
    )


def sampler(config: Config, manifest: Manifest, batch_size: int = 8) -> Program:
    """Drawing `batch_size` images with the config's sampler, as previews do."""
    set_policy(POLICY)
    denoiser = make_denoiser(config, manifest)

    @tf.function(jit_compile=True, autograph=False)
    def images(condition, noise):
        return tf.cast(to_uint8(generate(denoiser, condition, noise, config.sample)), tf.int32)

    shape = denoiser.condition_shape
    condition = tf.zeros(shape.batch(batch_size), shape.dtype)
    noise = tf.zeros([batch_size, *denoiser.image_shape])
    return _program("sampler", images, (condition, noise), batch_size, 0, 0)


def _program(name, function, arguments, batch_size, optimizer_bytes, gradient_bytes):
    graph = function.get_concrete_function(*arguments).graph
    hlo = function.experimental_get_compiler_ir(*arguments)(
        stage="hlo_serialized", platform_name="CPU"
    )
    return Program(
        name,
        batch_size,
        hlo,
        product_flops(graph),
        product_bytes(graph) + optimizer_bytes,
        activation_bytes(graph, batch_size),
        gradient_bytes,
    )
