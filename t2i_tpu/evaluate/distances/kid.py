"""The kernel Inception distance (KID), with its standard error. It needs only NumPy.

Bińkowski et al., 2018, "Demystifying MMD GANs" (arXiv:1801.01401). It is the square of the maximum
mean discrepancy with the kernel k(x, y) = (x.y / dim + 1)^3, estimated over all pairs without bias
(Gretton et al., 2012, "A kernel two-sample test", equation 3). Other programs average this over
random subsets because all pairs do not fit in memory; here, they are computed in blocks.
"""

import functools
import itertools
import math

import numpy as np

from t2i_tpu.evaluate.distances.distance import Distance, Figure

_BLOCK = 1024  # rows; the kernel's values for a pair of blocks take 8 MiB
# With fewer images, the standard error is too uncertain to be useful.
_LEAST_COUNT = 10


def compute_kid(real: np.ndarray, drawn: np.ndarray, is_paired: bool = False) -> dict[str, float]:
    """Return the KID between two sets of features and its standard error.

    Args:
      real: float [N, dim], at least 3 rows.
      drawn: float [M, dim], at least 3 rows.
      is_paired: whether each drawn image was drawn for the prompt or label of the real image in the
        same row. The two images of a row are then more alike than images of independent sets, which
        would make KID too small, even far below 0 for a model that memorizes. Such pairs are therefore
        left out.

    Returns:
      "kid", which is around 0, and may be negative, if both sets come from the same distribution;
      and "kid_standard_error", by the jackknife.

    Raises:
      ValueError: the sets are paired, but differ in size.
    """
    if is_paired and len(real) != len(drawn):
        raise ValueError(f"{len(real)} real images cannot be paired with {len(drawn)} drawn ones")
    real_within, drawn_within = _sum_within(real), _sum_within(drawn)
    real_across, drawn_across = _sum_across(real, drawn, is_paired)
    n, m = len(real), len(drawn)
    if is_paired:
        # Both images of a row are one point of this statistic (Gretton et al., 2012, equation 4).
        sums = real_within + drawn_within - real_across - drawn_across
        kid = sums.sum() / (n * (n - 1))
        variance = _compute_jackknife_variance(_leave_out_each(sums))
    else:
        across = real_across.sum()
        kid = (
            real_within.sum() / (n * (n - 1))
            + drawn_within.sum() / (m * (m - 1))
            - 2 * across / (n * m)
        )
        # The term within the other set is left out, because it does not change the variance.
        without_real = _leave_out_each(real_within) - 2 * (across - real_across) / ((n - 1) * m)
        without_drawn = _leave_out_each(drawn_within) - 2 * (across - drawn_across) / (n * (m - 1))
        variance = sum(map(_compute_jackknife_variance, (without_real, without_drawn)))
    return {"kid": float(kid), "kid_standard_error": math.sqrt(variance)}


def _leave_out_each(sums: np.ndarray) -> np.ndarray:
    """Return the mean over pairs of points without each of the points in turn, float64 [N].

    Args:
      sums: float64 [N], for each point, the sum over its pairs with the other points.
    """
    n = len(sums)
    # The sum over all pairs contains each point twice: as the first and as the second of a pair.
    return (sums.sum() - 2 * sums) / ((n - 1) * (n - 2))


def _compute_jackknife_variance(values: np.ndarray) -> float:
    """Return the variance of a statistic that is due to the choice of the points of one set.

    The variance of a statistic of two sets is the sum for both (Arvesen, 1969, "Jackknifing
    U-statistics"). The estimate errs on the high side (Efron and Stein, 1981, "The jackknife
    estimate of variance"). If both sets come from the same distribution, it is about twice the
    variance, so the standard error is about 1.4 times as large as the real one.

    Args:
      values: float64 [N], the statistic without each of the points.
    """
    n = len(values)
    return (n - 1) / n * float(np.sum((values - values.mean()) ** 2))


def _sum_within(points: np.ndarray) -> np.ndarray:
    """Return, for each point, the sum of its kernel values with the other points, float64 [N]."""
    sums = np.zeros(len(points))
    for rows, columns in itertools.combinations_with_replacement(_split(len(points)), 2):
        kernel = _compute_kernel(points[rows], points[columns])
        if rows == columns:
            np.fill_diagonal(kernel, 0)
        else:  # the transposed block is not computed
            sums[columns] += kernel.sum(axis=0)
        sums[rows] += kernel.sum(axis=1)
    return sums


def _sum_across(
    first: np.ndarray, second: np.ndarray, is_paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of each point's kernel values with the other set, float64 [N] and [M].

    Args:
      first: float [N, dim].
      second: float [M, dim].
      is_paired: whether to leave out the pairs of points in the same row.
    """
    first_sums, second_sums = np.zeros(len(first)), np.zeros(len(second))
    for rows, columns in itertools.product(_split(len(first)), _split(len(second))):
        kernel = _compute_kernel(first[rows], second[columns])
        if is_paired and rows == columns:
            np.fill_diagonal(kernel, 0)
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
            "overall. It is around 0 if they do not differ, and does not depend on the number of "
            "images, apart from chance.",
        ),
        Figure(
            "kid_standard_error",
            "Standard error of KID",
            "",
            "How much KID varies by chance, because it is computed from a limited number of images. A "
            "difference of less than about two standard errors may be chance.",
        ),
    ),
    count_needed=lambda dim: _LEAST_COUNT,
    compute=compute_kid,
    compute_paired=functools.partial(compute_kid, is_paired=True),
)
