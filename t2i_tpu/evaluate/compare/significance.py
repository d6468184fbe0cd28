"""Decides whether the values of two runs differ by more than their spread."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
_FEWEST = 2  # values; the spread of one is unknown


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between the values of a run and those of a reference.

    Attributes:
      amount: mean of the run minus mean of the reference.
      p_value: the p-value of Welch's t-test, or None if a side has fewer than two values.
    """

    amount: float
    p_value: float | None

    def describe(self, better: str) -> str:
        """Describe the difference in words.

        Args:
          better: "higher" or "lower", whichever values of the figure are better, or "" if neither is.
        """
        if self.p_value is None:
            return "unknown: only one value"
        p_value = f"(p\u00a0=\u00a0{self.p_value:.2g})"
        if self.p_value >= LEVEL:
            return f"no clear difference {p_value}"
        direction = "higher" if self.amount > 0 else "lower"
        word = {"": direction, direction: "better"}.get(better, "worse")
        return f"{word} {p_value}"


def compare_values(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Compare the values of a run with those of a reference, one for each set of images.

    Welch's t-test (Welch, 1947, "The generalization of 'Student's' problem when several different
    population variances are involved") does not assume that both sides have the same spread.
    """
    from scipy import stats

    amount = float(np.mean(values) - np.mean(reference))
    if min(len(values), len(reference)) < _FEWEST:
        return Difference(amount, None)
    if np.ptp(values) == 0 and np.ptp(reference) == 0:  # the test divides by the spread
        return Difference(amount, 0.0 if amount else 1.0)
    p_value = float(stats.ttest_ind(values, reference, equal_var=False).pvalue)
    return Difference(amount, 1.0 if math.isnan(p_value) else p_value)
