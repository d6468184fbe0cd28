"""Times training steps, and the machine's rate of matrix products."""

import time
from collections.abc import Callable


def time_steps(do_steps: Callable[[int], None], seconds: float) -> float:
    """Return the seconds per step, timed for about `seconds`.

    Args:
      do_steps: trains for a number of steps and waits until they are done.
      seconds: how long to measure. At least two steps are timed.
    """
    begin = time.perf_counter()
    do_steps(1)
    first = time.perf_counter() - begin
    count = max(2, min(10_000, int(seconds / max(first, 1e-6))))
    begin = time.perf_counter()
    do_steps(count)
    return (time.perf_counter() - begin) / count
