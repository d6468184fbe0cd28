"""Builds everything that trains a config: state, train loop and generator."""

import dataclasses
import math
from collections.abc import Iterable

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.manifest import Manifest, Shard
from t2i_tpu.data.reader import Dataset
from t2i_tpu.engines.engine import Engine, TrainLoop
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.sample.generator import Generator
from t2i_tpu.step.state import State, read_scalar


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The variables and functions that train a config on an engine.

    Attributes:
      config: resolved.
      engine: the engine that the config trains on.
      dtype_policy: the Keras dtype policy of the model.
      jit_compile: whether XLA compiles the forward and backward pass, and the sampler.
      replica_batch_size: number of examples per replica and step.
      state: the variables.
      loop: trains the state.
      generator: draws images with the state's sampling weights.
    """

    config: Config
    engine: Engine
    dtype_policy: str
    jit_compile: bool
    replica_batch_size: int
    state: State
    loop: TrainLoop
    generator: Generator

    def make_iterator(self, dataset: Dataset, start_step: int = 0) -> object:
        """Return an iterator over a data set's batches for the train loop, from `start_step` on."""

        def read_batches(host: int, num_hosts: int) -> Iterable:
            return self.read_host_batches(dataset, start_step, host, num_hosts)

        return self.engine.make_iterator(self.config, read_batches)

    def read_host_batches(
        self, dataset: Dataset, start_step: int, host: int, num_hosts: int
    ) -> Iterable:
        """Return the batches that one host reads; see `Dataset.batches`."""
        return dataset.batches(
            self.config.seed,
            self.config.train.global_batch_size,
            self.engine.get_read_batch_size(self.config.train.global_batch_size),
            start_step,
            host,
            num_hosts,
        )

    def list_shards_in_use(self, dataset: Dataset) -> list[Shard]:
        """Return the shards of a data set that the current step reads, or that are read ahead."""
        step = read_scalar(self.state.step)
        return dataset.list_shards_near(self.config.seed, self.config.train.global_batch_size, step)

    def is_waiting_for_input(self) -> bool:
        """Return whether the train loop is waiting for input."""
        return self.loop.waiting

    def count_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(math.prod(weight.shape) for weight in self.state.denoiser.trainable_variables)


def build_trainer(
    config: Config,
    engine: Engine,
    manifest: Manifest,
    dtype_policy: str | None = None,
    jit_compile: bool | None = None,
) -> Trainer:
    """Create the variables and functions that train a config. Nothing is compiled yet.

    Args:
      config: resolved.
      engine: the engine to train on.
      manifest: the manifest of the data set.
      dtype_policy: a Keras dtype policy. None follows config.train.dtype_policy.
      jit_compile: whether to use XLA. None follows config.train.jit_compile.

    Raises:
      UserError: the engine's replicas do not divide the batch, or the model cannot be built.
    """
    replica_batch_size = engine.get_replica_batch_size(config.train.global_batch_size)
    if dtype_policy is None:
        dtype_policy = engine.choose_dtype_policy(config.train)
    if jit_compile is None:
        jit_compile = engine.should_use_xla(config.train)
    spec = get_conditioning(config.model.conditioning).make_spec(manifest)
    with engine.scope():
        denoiser = build_denoiser(config, manifest.channels, spec, dtype_policy)
        state = State(config, denoiser)
    engine.place(state, config)
    return Trainer(
        config=config,
        engine=engine,
        dtype_policy=dtype_policy,
        jit_compile=jit_compile,
        replica_batch_size=replica_batch_size,
        state=state,
        loop=engine.make_train_loop(config, state, jit_compile),
        generator=Generator(engine, denoiser, state.sampling_weights, config.sample, jit_compile),
    )
