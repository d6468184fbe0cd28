"""The Fréchet Inception distance (FID).

Heusel et al., 2017, "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium" (arXiv:1706.08500). It is the Fréchet distance between two Gaussians with the means m and
covariances C of the two sets of features: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
"""

import numpy as np
import scipy.linalg

from t2i_tpu.evaluate.distances.distance import Distance, Figure

_CHUNK = 4096  # rows that are converted to float64 at a time


def compute_fid(real: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return "fid" between two sets of features.

    Args:
      real: float [N, dim], N > dim. Otherwise, the covariance is singular.
      drawn: float [M, dim], M > dim.
    """
    mean, covariance = compute_moments(real)
    other_mean, other_covariance = compute_moments(drawn)
    return {"fid": compute_frechet_distance(mean, covariance, other_mean, other_covariance)}


def compute_moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, float64 [dim], and the unbiased covariance, float64 [dim, dim]."""
    count, dim = points.shape
    chunks = [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
    mean = np.zeros(dim)
    for chunk in chunks:
        mean += points[chunk].sum(axis=0, dtype=np.float64)
    mean /= count
    covariance = np.zeros((dim, dim))
    for chunk in chunks:
        centered = points[chunk] - mean
        covariance += centered.T @ centered
    return mean, covariance / (count - 1)


def compute_frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """Return the squared Fréchet distance between two Gaussians.

    The product C1 C2 is not symmetric, so rounding can give its square root an imaginary part. But
    the trace of this root is the sum of the singular values of C1^(1/2) C2^(1/2), which are real, and
    the roots of the symmetric matrices are real too.
    """
    roots = _compute_square_root(covariance) @ _compute_square_root(other_covariance)
    trace_of_root = scipy.linalg.svdvals(roots).sum()
    shift = np.sum((mean - other_mean) ** 2)
    distance = shift + np.trace(covariance) + np.trace(other_covariance) - 2 * trace_of_root
    return max(float(distance), 0.0)  # rounding may make it negative if the Gaussians are equal


def _compute_square_root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric square root. Eigenvalues below 0, which are due to rounding, become 0."""
    values, vectors = scipy.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


DISTANCE = Distance(
    figures=(
        Figure(
            "fid",
            "FID",
            "lower",
            "Fréchet Inception distance: how far apart the features of drawn and real images are, if "
            "both are treated as Gaussian distributions. It is larger for fewer images, so compare it "
            "only between evaluations with the same number of images and the same extractor.",
        ),
    ),
    count_needed=lambda dim: dim + 1,
    compute=compute_fid,
)
