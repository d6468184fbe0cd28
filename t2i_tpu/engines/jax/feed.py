"""Moves the batches of a host to its devices in the background, several steps at a time."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
from keras import tree

# A block of steps is at most this large, because up to four blocks are in memory at a time.
_MAX_BLOCK_BYTES = 64 * 2**20


class Feed:
    """Blocks of batches on the devices. A thread reads them ahead.

    Attributes:
      waiting: whether `take` is waiting for input. Other threads read it.
    """

    def __init__(self, batches: Iterator[dict], max_steps: int, place: Callable[[dict], dict]):
        """Start reading.

        Args:
          batches: this host's share of each step's batch, as NumPy arrays.
          max_steps: the largest number of steps in a block.
          place: moves a block, whose arrays have an additional first dimension for the steps, to the
            devices.
        """
        self.waiting = False
        self._blocks, ended = queue.Queue(maxsize=1), threading.Event()
        self._block, self._next, self._end = None, 0, 0
        # The thread must not keep this object alive.
        weakref.finalize(self, ended.set)
        threading.Thread(
            target=_fill, args=(self._blocks, ended, batches, max_steps, place), daemon=True
        ).start()

    def take(self, max_steps: int) -> tuple[dict, int, int, float]:
        """Return the next steps.

        Returns:
          A block, the index of the first step in it, the number of steps to train, at most `max_steps`,
          and the seconds of waiting for input.

        Raises:
          Exception: whatever reading the batches raised.
        """
        begin = time.perf_counter()
        if self._next == self._end:
            self.waiting = True
            block = self._blocks.get()
            if isinstance(block, BaseException):
                self._blocks.put(block)  # for the next call, because the thread has ended
                raise block  # still `waiting`: the error is one of reading
            self.waiting = False
            self._block, self._next, self._end = block
        first, count = self._next, min(max_steps, self._end - self._next)
        self._next += count
        return self._block, first, count, time.perf_counter() - begin


def count_block_steps(step_bytes: int, max_steps: int) -> int:
    """Return the number of steps in a block, given the size of a host's share of a batch."""
    return max(1, min(max_steps, _MAX_BLOCK_BYTES // step_bytes))


def _fill(blocks, ended, batches, max_steps, place):
    """Put blocks into a queue until it is no longer needed, and an exception if reading fails."""
    try:
        while not ended.is_set():
            steps = [next(batches)]
            size = sum(array.nbytes for array in tree.flatten(steps))
            count = count_block_steps(size, max_steps)
            steps += [next(batches) for _ in range(count - 1)]
            block = place(tree.map_structure(lambda *arrays: np.stack(arrays), *steps))
            _put(blocks, ended, (block, 0, count))
    except BaseException as error:
        _put(blocks, ended, error)


def _put(blocks, ended, block):
    while not ended.is_set():
        try:
            return blocks.put(block, timeout=1)
        except queue.Full:
            continue
