"""Builds everything that trains a config: state, step, device loop and generator."""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from t2i_tpu.config import Config
from t2i_tpu.data.manifest import Manifest, Shard
from t2i_tpu.data.pipeline import make_distributed_iterator
from t2i_tpu.data.reader import Dataset
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.sample.generator import Generator
from t2i_tpu.train.state import TrainState
from t2i_tpu.train.step import make_device_loop, make_replica_step


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The variables and functions that train a config under a strategy.

    Attributes:
      config: resolved.
      strategy: the strategy that the config trains under.
      dtype_policy: the Keras dtype policy of the model.
      jit_compile: whether XLA compiles the forward and backward pass, and the sampler.
      replica_batch_size: number of examples per replica and step.
      state: the variables.
      replica_step: see `make_replica_step`.
      device_loop: see `make_device_loop`.
      generator: draws images with the state's sampling model.
      waiting: bool variable, true while the device loop waits for input.
    """

    config: Config
    strategy: tf.distribute.Strategy
    dtype_policy: str
    jit_compile: bool
    replica_batch_size: int
    state: TrainState
    replica_step: Callable
    device_loop: Callable
    generator: Generator
    waiting: tf.Variable

    def make_iterator(self, dataset: Dataset, start_step: int = 0) -> tf.data.Iterator:
        """Return a distributed iterator over a data set's batches, from step `start_step` on."""

        def read(context: tf.distribute.InputContext) -> tf.data.Dataset:
            host, num_hosts = context.input_pipeline_id, context.num_input_pipelines
            return self.read_host_batches(dataset, start_step, host, num_hosts)

        return make_distributed_iterator(self.strategy, read)

    def read_host_batches(
        self, dataset: Dataset, start_step: int, host: int, num_hosts: int
    ) -> tf.data.Dataset:
        """Return the batches that one host reads; see `Dataset.batches`."""
        return dataset.batches(
            self.config.seed,
            self.config.train.global_batch_size,
            self.replica_batch_size,
            start_step,
            host,
            num_hosts,
        )

    def list_shards_in_use(self, dataset: Dataset) -> list[Shard]:
        """Return the shards of a data set that the current step reads, or that are read ahead."""
        step = int(self.state.step.numpy())
        return dataset.list_shards_near(self.config.seed, self.config.train.global_batch_size, step)

    def is_waiting_for_input(self) -> bool:
        """Return whether the device loop is waiting for input."""
        return bool(self.waiting.numpy())

    def count_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(math.prod(weight.shape) for weight in self.state.weights)


def build_trainer(
    config: Config,
    strategy: tf.distribute.Strategy,
    manifest: Manifest,
    dtype_policy: str | None = None,
    jit_compile: bool | None = None,
) -> Trainer:
    """Create the variables and functions that train a config. Nothing is compiled yet.

    Args:
      config: resolved.
      strategy: the strategy to train under.
      manifest: the manifest of the data set.
      dtype_policy: a Keras dtype policy. None follows config.train.dtype_policy.
      jit_compile: whether to use XLA. None follows config.train.jit_compile.

    Raises:
      UserError: the strategy's replicas do not divide the batch, or the model cannot be built.
    """
    replica_batch_size = strategy_lib.get_replica_batch_size(
        strategy, config.train.global_batch_size
    )
    if dtype_policy is None:
        dtype_policy = strategy_lib.choose_dtype_policy(config.train, strategy)
    if jit_compile is None:
        jit_compile = strategy_lib.should_use_xla(config.train, strategy)
    state = TrainState(config, manifest, dtype_policy, strategy)
    waiting = tf.Variable(False, trainable=False)
    replica_step = make_replica_step(config, state, jit_compile)
    return Trainer(
        config=config,
        strategy=strategy,
        dtype_policy=dtype_policy,
        jit_compile=jit_compile,
        replica_batch_size=replica_batch_size,
        state=state,
        replica_step=replica_step,
        device_loop=make_device_loop(strategy, replica_step, waiting),
        generator=Generator(strategy, state.sampling_model, config.sample, jit_compile=jit_compile),
        waiting=waiting,
    )
