"""The interface of an engine, and the settings that depend on its hardware.

An engine decides where variables live, how a training step is differentiated, compiled and spread over
devices, and how batches reach these devices. Everything else is the same for all engines.
"""

import abc
import contextlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from t2i_tpu.config import Config, TrainConfig
from t2i_tpu.engines.hardware import choose_dtype_policy
from t2i_tpu.errors import UserError
from t2i_tpu.step.state import State

# A function (index of an input host, number of input hosts) -> the data set of its batches.
ReadBatches = Callable[[int, int], Iterable[dict]]


class TrainLoop(abc.ABC):
    """Runs several training steps on the devices.

    Attributes:
      waiting: whether the loop is waiting for input. Other threads read it.
    """

    waiting: bool

    @abc.abstractmethod
    def run(self, batches: object, num_steps: int) -> tuple[dict[str, float], float]:
        """Run training steps.

        Args:
          batches: from `Engine.make_iterator`.
          num_steps: the number of steps.

        Returns:
          The metrics of `step.metrics`, summed over the steps, and the seconds that the loop waited for
          input.
        """

    @abc.abstractmethod
    def trace(self, batches: object) -> object:
        """Return the program of a step, without running it: a tf.Graph or a jaxpr."""


class Engine(abc.ABC):
    """A framework with a choice of devices.

    Attributes:
      hardware: "cpu", "gpu" or "tpu".
      num_replicas: the number of devices that share a batch, over all processes.
      process, num_processes: the index of this process in the run, and the number of processes.
        Process 0 writes the workdir.
      num_input_hosts: the number of hosts that read the data. Each of them reads different streams.
    """

    hardware: str
    num_replicas: int
    process: int
    num_processes: int
    num_input_hosts: int

    def check(self, config: Config) -> None:
        """Raise UserError if the engine cannot train a config."""
        self.get_replica_batch_size(config.train.global_batch_size)

    @abc.abstractmethod
    def scope(self) -> contextlib.AbstractContextManager:
        """Return the scope in which the variables of a run must be created."""

    @abc.abstractmethod
    def place(self, state: State, config: Config) -> None:
        """Move the variables of a new state to the devices."""

    @abc.abstractmethod
    def assign(self, variable: keras.Variable, value: np.ndarray) -> None:
        """Set a variable on all devices."""

    @abc.abstractmethod
    def read(self, variable: keras.Variable) -> np.ndarray:
        """Return the value of a variable. If there are several processes, all must call this method."""

    @abc.abstractmethod
    def make_train_loop(self, config: Config, state: State, jit_compile: bool) -> TrainLoop:
        """Return the loop that trains a state. Nothing is compiled yet."""

    @abc.abstractmethod
    def make_iterator(self, config: Config, read_batches: ReadBatches) -> object:
        """Return an iterator over the batches of a run, for its train loop."""

    @abc.abstractmethod
    def get_read_batch_size(self, global_batch_size: int) -> int:
        """Return the number of examples in each element of the data sets of `make_iterator`."""

    @abc.abstractmethod
    def compile_inference(
        self,
        function: Callable,
        weights: Sequence[tuple[keras.Variable, keras.Variable]],
        jit_compile: bool,
    ) -> Callable:
        """Compile a function that uses the model on a batch, for example to draw images.

        Args:
          function: maps two trees of tensors to a tree of tensors [b, ...]. The first tree holds
            tensors [b, ...], whose examples the function must treat independently of each other. The
            second tree holds tensors that all examples share.
          weights: pairs of a variable that the function reads and the variable whose value replaces it.
          jit_compile: whether XLA compiles the function.

        Returns:
          A function from the same trees of arrays to a tree of arrays. The first dimension of the arrays
          in the first tree must be a multiple of the number of replicas. All processes get the same
          arrays.
        """

    @abc.abstractmethod
    def compiles_per_batch_size(self, jit_compile: bool) -> bool:
        """Return whether a function of `compile_inference` is compiled again for each batch size."""

    def trace_once(self, function: Callable, jit_compile: bool) -> Callable:
        """Return a function for use in several places of functions that `compile_inference` compiles.

        Args:
          function: maps trees of tensors [b, ...] to a tree of tensors [b, ...].
          jit_compile: as given to `compile_inference`.

        Returns:
          The function. If the engine supports this, it is traced once, and not in each place.
        """
        return function

    @abc.abstractmethod
    def differentiate(self, function: Callable, arguments: list) -> tuple[object, list]:
        """Compute a function and its gradient, outside of the train loop.

        Args:
          function: maps tensors to a scalar and a list of other tensors.
          arguments: the tensors.

        Returns:
          The list of other tensors, and the gradient of the scalar by each argument, as arrays.
        """

    @abc.abstractmethod
    def sum_over_processes(self, values: Sequence[int]) -> list[int]:
        """Return the elementwise sum of the processes' values.

        Every process must call this method with the same number of values. All get the same result.
        """

    @abc.abstractmethod
    def translate_lost_processes(self) -> contextlib.AbstractContextManager:
        """Return a context that raises UserError if another process of the run disappears inside it."""

    @abc.abstractmethod
    def should_use_xla(self, train: TrainConfig) -> bool:
        """Return whether XLA should compile the train step and the sampler."""

    def choose_dtype_policy(self, train: TrainConfig) -> str:
        """Return the Keras dtype policy of a config; see `hardware.choose_dtype_policy`."""
        return choose_dtype_policy(train, self.hardware)

    def get_replica_batch_size(self, global_batch_size: int) -> int:
        """Return a replica's share of a batch.

        Raises:
          UserError: the number of replicas does not divide the batch size.
        """
        return divide_batch(global_batch_size, self.num_replicas)


def divide_batch(global_batch_size: int, replicas: int) -> int:
    """Return a replica's share of a batch.

    Raises:
      UserError: the number of replicas does not divide the batch size.
    """
    if global_batch_size % replicas:
        raise UserError(
            f"config.train.global_batch_size is {global_batch_size}, but it must be a multiple of "
            f"the number of replicas, {replicas}"
        )
    return global_batch_size // replicas


def describe_lost_process(process: int, culprit: str) -> UserError:
    """Return the error of a process that has lost contact with another one."""
    return UserError(
        f"worker {process} has lost contact with {culprit} of this run; start the same command "
        "again, on any number of workers, to resume from the newest checkpoint"
    )
