"""The two engines that benchmarks/gpu.py compares, each in a process of its own."""

import contextlib
import os
import pathlib
import time
from statistics import median

from benchmarks.on_gpu.worker import Worker, WorkerError

JAX, PEER = "jax", "peer"
OUT_OF_MEMORY = "out of memory"
# The share of the GPU's memory that each engine may use, and that of an engine alone.
_SHARE, _SHARE_ALONE = 0.45, 0.9

# Batch size and mode of torch.compile, which is None for JAX.
Setting = tuple[int, str | None]


class Pair:
    """JAX and, if it is installed, PyTorch. They compile at the same time, and are timed in turns.

    Args:
      data: path of the file that --pack wrote.
      output: folder for the logs.
      has_peer: whether to measure PyTorch.
    """

    def __init__(self, data: str, output: pathlib.Path, has_peer: bool):
        share = _SHARE if has_peer else _SHARE_ALONE
        # Only one GPU, even if the machine has several.
        common = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
        environment = {
            **common,
            "KERAS_BACKEND": "jax",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": str(share),
        }
        target = "benchmarks.on_gpu.jax_training:JaxWorker"
        self.workers = {JAX: Worker(target, output / "jax.log", environment, data=data)}
        if has_peer:
            self.workers[PEER] = Worker(
                "benchmarks.on_gpu.peer_training:PeerWorker",
                output / "peer.log",
                common,
                data=data,
                memory_share=share,
            )
        self._started: tuple | None = None  # the case and setting that the peer prepares

    @property
    def has_peer(self) -> bool:
        """Whether PyTorch is installed."""
        return PEER in self.workers

    def call(self, engine: str, method: str, deadline: float, **arguments) -> object:
        """Call a method of a worker. Raises WorkerError."""
        return self.workers[engine].call(method, deadline, **arguments)

    def start_peer(self, case: str, setting: Setting) -> None:
        """Let the peer prepare a case in the background until `prepare` asks for it."""
        self._started = (case, setting)
        self.workers[PEER].start("prepare", case=case, **_to_arguments(setting))

    def prepare(
        self, case: str, settings: dict[str, Setting], deadline: float
    ) -> tuple[dict[str, dict], dict[str, str]]:
        """Compile a case on several engines at the same time.

        If there is not enough memory, the batch is halved up to three times.

        Args:
          case: the name of the case.
          settings: the setting for each engine.
          deadline: when to give up.

        Returns:
          For each engine that is ready, its setting and the result of its `prepare`; and for each other
          engine, the reason why it is not ready.
        """
        started, self._started = self._started, None
        if started and started != (case, settings.get(PEER)):
            with contextlib.suppress(WorkerError):  # the result is no longer needed
                self.workers[PEER].finish(deadline)
            started = None
        for engine, setting in settings.items():
            if not (engine == PEER and started):
                self.workers[engine].start("prepare", case=case, **_to_arguments(setting))
        ready, failed = {}, {}
        for engine, setting in settings.items():
            try:
                ready[engine] = self._finish(engine, case, setting, deadline)
            except WorkerError as error:
                failed[engine] = str(error)
        return ready, failed

    def _finish(self, engine: str, case: str, setting: Setting, deadline: float) -> dict:
        batch_size, mode = setting
        for attempt in range(4):
            try:
                known = self.workers[engine].finish(deadline)
                return {"batch_size": batch_size, "mode": mode, **known}
            except WorkerError as error:
                if str(error) != OUT_OF_MEMORY or attempt == 3 or batch_size < 2:
                    raise
            batch_size //= 2
            arguments = _to_arguments((batch_size, mode))
            self.workers[engine].start("prepare", case=case, **arguments)
        raise AssertionError("the last attempt returns or raises")

    def time(
        self, case: str, ready: dict[str, dict], rounds: int, seconds: float, deadline: float
    ) -> None:
        """Time engines in turns, and set "images_per_second" of each to a list of all rounds.

        Raises:
          WorkerError: an engine failed, or there is no time. The lists are then as they were.
        """
        rates = {engine: [] for engine in ready}
        for _ in range(rounds):
            for engine, known in ready.items():
                arguments = _to_arguments((known["batch_size"], known["mode"]))
                step = self.call(engine, "time", deadline, case=case, seconds=seconds, **arguments)
                rates[engine].append(known["batch_size"] / step)
        for engine, known in ready.items():
            known["images_per_second"] = rates[engine]

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()


def get_rate(known: dict) -> float:
    """Return the median of the images per second of an engine."""
    return median(known["images_per_second"])


def _to_arguments(setting: Setting) -> dict[str, object]:
    batch_size, mode = setting
    return {"batch_size": batch_size} | ({} if mode is None else {"mode": mode})


def seconds_until(deadline: float) -> float:
    """Return the seconds until a value of time.monotonic()."""
    return deadline - time.monotonic()
