"""The kernel Inception distance (KID), with its standard error. It needs only NumPy.

Bińkowski et al., 2018, "Demystifying MMD GANs" (arXiv:1801.01401). It is the square of the maximum
mean discrepancy with the kernel k(x, y) = (x.y / dim + 1)^3, estimated over all pairs without bias
(Gretton et al., 2012, "A kernel two-sample test", equation 3). Other programs average this over
random subsets because all pairs do not fit in memory; here, they are computed in blocks.
"""

import dataclasses
import itertools
import math

import numpy as np

from t2i_tpu.evaluate.distances.distance import Distance, Figure

_BLOCK = 2048  # rows; a block of the kernel's matrix has 32 MiB
# With fewer images, the standard error is too uncertain to be of use.
_LEAST_COUNT = 10


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums over one set's points.

    Attributes:
      within: float64 [N], for each point, the sum of its kernel with the other points of its set.
      across: float64 [N], the sum of its kernel with all points of the other set.
    """

    within: np.ndarray
    across: np.ndarray


def compute_kid(real: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return the KID between two sets of features and its standard error.

    Args:
      real: float [N, dim], at least 3 rows.
      drawn: float [M, dim], at least 3 rows.

    Returns:
      "kid", which is around 0, and may be negative, if both sets come from the same distribution;
      and "kid_standard_error", by the jackknife.
    """
    across, across_transposed = _sum_across(real, drawn)
    real_sums = _Sums(_sum_within(real), across)
    drawn_sums = _Sums(_sum_within(drawn), across_transposed)
    n, m = len(real), len(drawn)
    kid = (
        real_sums.within.sum() / (n * (n - 1))
        + drawn_sums.within.sum() / (m * (m - 1))
        - 2 * across.sum() / (n * m)
    )
    variance = _estimate_variance(real_sums, m) + _estimate_variance(drawn_sums, n)
    return {"kid": float(kid), "kid_standard_error": math.sqrt(variance)}


def _estimate_variance(sums: _Sums, num_others: int) -> float:
    """Return the part of KID's variance that is due to the choice of the points of one set.

    It is the jackknife's estimate: the spread of the KIDs that leave out one point. The estimate for
    two sets is the sum of both parts (Arvesen, 1969, "Jackknifing U-statistics"). It errs on the
    high side (Efron and Stein, 1981, "The jackknife estimate of variance"): if both sets come from
    the same distribution, it is about twice the variance.

    Args:
      sums: sums over this set's points.
      num_others: number of points in the other set.
    """
    n = len(sums.within)
    # The sum over pairs of this set contains each point twice: in its row and in its column.
    within = (sums.within.sum() - 2 * sums.within) / ((n - 1) * (n - 2))
    across = (sums.across.sum() - sums.across) / ((n - 1) * num_others)
    kids = within - 2 * across  # but for a term without this set's points
    return (n - 1) / n * float(np.sum((kids - kids.mean()) ** 2))


def _sum_within(points: np.ndarray) -> np.ndarray:
    """Return the sums of each point's kernel with the other points, float64 [N]."""
    sums = np.zeros(len(points))
    for rows, columns in itertools.combinations_with_replacement(_split(len(points)), 2):
        kernel = _compute_kernel(points[rows], points[columns])
        if rows == columns:
            np.fill_diagonal(kernel, 0)
        else:  # the transposed block is not computed
            sums[columns] += kernel.sum(axis=0)
        sums[rows] += kernel.sum(axis=1)
    return sums


def _sum_across(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of the kernel over the second set for each point of the first, and vice versa."""
    first_sums, second_sums = np.zeros(len(first)), np.zeros(len(second))
    for rows, columns in itertools.product(_split(len(first)), _split(len(second))):
        kernel = _compute_kernel(first[rows], second[columns])
        first_sums[rows] += kernel.sum(axis=1)
        second_sums[columns] += kernel.sum(axis=0)
    return first_sums, second_sums


def _compute_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (x.y / dim + 1)^3 for each pair of points, float64 [len(first), len(second)]."""
    base = first.astype(np.float64) @ second.astype(np.float64).T
    base /= first.shape[1]
    base += 1
    kernel = base * base
    kernel *= base
    return kernel


def _split(count: int) -> list[slice]:
    """Return slices of at most _BLOCK rows that cover `count` rows."""
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


DISTANCE = Distance(
    figures=(
        Figure(
            "kid",
            "KID",
            "lower",
            "Kernel Inception distance: how different the features of drawn and real images are "
            "overall. It is around 0 if they cannot be told apart, and does not depend on the number "
            "of images, apart from chance.",
        ),
        Figure(
            "kid_standard_error",
            "Standard error of KID",
            "",
            "How much KID varies by chance, because only some images were drawn. A difference of less "
            "than about two standard errors means nothing.",
        ),
    ),
    count_needed=lambda dim: _LEAST_COUNT,
    compute=compute_kid,
)
