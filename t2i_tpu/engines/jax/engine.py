"""The engine that computes with JAX, on a mesh of devices."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from keras import tree

from t2i_tpu.config import Config, TrainConfig
from t2i_tpu.engines.engine import Engine, TrainLoop, describe_lost_process, divide_batch
from t2i_tpu.engines.jax import program
from t2i_tpu.engines.jax.feed import Feed
from t2i_tpu.step.metrics import METRICS, name_metrics
from t2i_tpu.step.state import State


class JaxEngine(Engine):
    """Computes with JAX.

    Attributes:
      mesh: the devices of all processes.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self.mesh = Mesh(np.array(devices), (program.AXIS,))
        self.hardware = devices[0].platform
        self.num_replicas = len(devices)
        self.process, self.num_processes = jax.process_index(), jax.process_count()
        self.num_input_hosts = self.num_processes
        # Made once, so that each shape is compiled once and not at every checkpoint.
        self._gather = jax.jit(lambda array: array, out_shardings=program.replicate(self.mesh))

    def scope(self):
        # The variables are created in the host's memory, from which `place` moves them to the devices.
        return jax.default_device(jax.local_devices(backend="cpu")[0])

    def place(self, state: State, config: Config) -> None:
        shardings = program.choose_state_shardings(config, state, self.mesh)
        for variable, sharding in zip(state.list_variables(), shardings, strict=True):
            variable.assign(_put(np.asarray(variable.value), sharding))

    def assign(self, variable, value):
        sharding = variable.value.sharding
        if not isinstance(sharding, NamedSharding):  # the variable is new
            sharding = program.replicate(self.mesh)
        variable.assign(_put(np.asarray(value, variable.value.dtype), sharding))

    def read(self, variable):
        value = variable.value
        if not value.is_fully_replicated and self.num_processes > 1:
            value = self._gather(value)
        return np.asarray(value)

    def make_train_loop(self, config: Config, state: State, jit_compile: bool) -> "JaxTrainLoop":
        max_steps = config.train.steps_per_loop if program.has_loop(self.mesh) else 1
        run_steps = program.compile_train_steps(config, state, self.mesh)
        return JaxTrainLoop(run_steps, state, max_steps)

    def make_iterator(self, config, read_batches):
        sharding = program.split_batch(self.mesh, axis=1)

        def place(block: dict) -> dict:
            return tree.map_structure(
                lambda array: jax.make_array_from_process_local_data(sharding, array), block
            )

        batches = read_batches(self.process, self.num_processes).as_numpy_iterator()
        return Feed(batches, config.train.steps_per_loop, place)

    def get_read_batch_size(self, global_batch_size: int) -> int:
        return divide_batch(global_batch_size, self.num_processes)

    def compile_inference(self, function, weights, jit_compile):
        old, new = zip(*weights, strict=True)
        infer = program.compile_inference(function, old, self.mesh)
        sharding = program.split_batch(self.mesh)

        def call(inputs, shared=()):
            inputs = tree.map_structure(lambda array: _put(np.asarray(array), sharding), inputs)
            result = infer([variable.value for variable in new], inputs, shared)
            return tree.map_structure(np.asarray, result)

        return call

    def compiles_per_batch_size(self, jit_compile: bool) -> bool:
        return True

    def differentiate(self, function, arguments):
        gradients, others = jax.jit(jax.grad(function, has_aux=True))(arguments)
        return [np.asarray(other) for other in others], [np.asarray(array) for array in gradients]

    def sum_over_processes(self, values: Sequence[int]) -> list[int]:
        if self.num_processes == 1:
            return list(values)
        gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
        return gathered.sum(axis=0).tolist()

    @contextlib.contextmanager
    def translate_lost_processes(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.num_processes == 1 or not _is_lost_connection(str(error)):
                raise
            culprit = f"worker {1 - self.process}" if self.num_processes == 2 else "another worker"
            raise describe_lost_process(self.process, culprit) from error

    def should_use_xla(self, train: TrainConfig) -> bool:
        """Return true: JAX always compiles with XLA."""
        return True


class JaxTrainLoop(TrainLoop):
    """Trains with the compiled function of `compile_train_steps`."""

    def __init__(self, run_steps: Callable, state: State, max_steps: int):
        self._run_steps, self._max_steps = run_steps, max_steps
        self._variables, self._feed = state.list_variables(), None

    @property
    def waiting(self) -> bool:
        return bool(self._feed and self._feed.waiting)

    def run(self, batches: Feed, num_steps: int):
        self._feed, waited, total = batches, 0.0, np.zeros(len(METRICS))
        values, previous = [variable.value for variable in self._variables], total
        try:
            while num_steps:
                steps = min(num_steps, self._max_steps)
                block, first, count, seconds = batches.take(steps)
                values, metrics = self._run_steps(values, block, first, count)
                num_steps, waited = num_steps - count, waited + seconds
                # Computation is asynchronous. Wait for the previous block, so that at most two are in use.
                total, previous = total + np.asarray(previous), metrics
        finally:
            # Do this after an error too: the old values were overwritten, and the error's report reads the step.
            for variable, value in zip(self._variables, values, strict=True):
                variable.assign(value)
        return name_metrics(total + np.asarray(previous)), waited

    def trace(self, batches: Feed):
        values = [variable.value for variable in self._variables]
        return self._run_steps.trace(values, *batches.take(1)[:3]).jaxpr


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Return an array over all processes, each of which has a copy of its values."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _is_lost_connection(message: str) -> bool:
    words = ("gloo", "connection", "coordination service", "heartbeat", "unavailable")
    return any(word in message.lower() for word in words)
