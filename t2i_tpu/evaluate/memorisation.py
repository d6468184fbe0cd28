"""Finds drawn images that may be copies of training images, and repeated training images."""

import hashlib
import math

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.distances.distance import Figure

_MOST_ROWS = 1024
_MOST_VALUES = 2**22  # in a chunk of float64, which therefore takes at most 32 MiB

FIGURES = (
    Figure(
        "num_checked",
        "Images checked for copying",
        "",
        "The number of drawn images that were compared with all training images. The more there are, "
        "the rarer the copies that can be found.",
    ),
    Figure(
        "num_flagged",
        "Likely copies",
        "lower",
        "The number of checked images that are so close to a training image, compared with held-out "
        "real images, that the likelihood of a copy is at least 0.95. Look at them, because blurred "
        "images are close to many images without being copies.",
    ),
)


def find_nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest reference, float64 [Q], and its row, int64 [Q].

    Args:
      queries: float [Q, dim].
      references: float [R, dim].
    """
    _, rows = _find_nearest_rows(queries, references)
    # The squares of the search are differences of large numbers, so that of a copy may not be 0.
    distances = np.empty(len(queries))
    for chunk in _split(queries):
        differences = queries[chunk].astype(np.float64) - references[rows[chunk]]
        distances[chunk] = np.linalg.norm(differences, axis=1)
    return distances, rows


def find_nearest_images(
    queries: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest reference or mirrored reference, and its row.

    Args:
      queries: uint8 [Q, height, width, channels].
      references: uint8 [R, height, width, channels].

    Returns:
      The distances, float64 [Q], and the rows of the references, int64 [Q]. A distance is the root mean
      square of the differences between pixels: 0 for a copy, and 1 between black and white.
    """
    squares, rows = _find_nearest_rows(queries, references)
    # Mirroring the query has the same effect as mirroring all references.
    mirrored_squares, mirrored_rows = _find_nearest_rows(queries[:, :, ::-1], references)
    rows = np.where(mirrored_squares < squares, mirrored_rows, rows)
    squares = np.minimum(squares, mirrored_squares)
    return np.sqrt(squares / math.prod(queries.shape[1:])) / 255, rows


def _find_nearest_rows(
    queries: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared Euclidean distance to the nearest reference, and its row.

    For uint8 values, the squares are exact, because float64 represents such integers exactly.
    """
    squares, rows = np.full(len(queries), np.inf), np.zeros(len(queries), np.int64)
    for chunk in _split(references):
        candidates = _flatten(references[chunk])
        for part in _split(queries):
            matrix = euclidean_distances(_flatten(queries[part]), candidates, squared=True)
            nearest = matrix.argmin(axis=1)
            nearest_squares = np.take_along_axis(matrix, nearest[:, None], axis=1)[:, 0]
            is_nearer = nearest_squares < squares[part]
            rows[part] = np.where(is_nearer, chunk.start + nearest, rows[part])
            squares[part] = np.minimum(nearest_squares, squares[part])
    return squares, rows


def _flatten(points: np.ndarray) -> np.ndarray:
    return points.reshape(len(points), -1).astype(np.float64)


def _split(points: np.ndarray) -> list[slice]:
    """Return slices of rows that cover all points, each small enough for memory."""
    size = max(1, min(_MOST_ROWS, _MOST_VALUES // math.prod(points.shape[1:])))
    return [slice(start, start + size) for start in range(0, len(points), size)]


def estimate_copy_likelihoods(
    drawn_distances: np.ndarray, heldout_distances: np.ndarray
) -> np.ndarray:
    """Return the likelihood that each drawn image is a copy of a training image, float64 [M].

    Held-out images are not copies, so their distances show which distances occur without copying. The
    likelihood at distance d is 1 minus the false discovery rate of calling each drawn image within d
    a copy: the share of held-out images within d over the share of drawn images within d (Storey,
    2002, "A direct approach to false discovery rates"; Efron and Tibshirani, 2002, "Empirical Bayes
    methods and false discovery rates for microarrays"). It does not increase with d. It errs on the low
    side, because the share of held-out images applies only to the drawn images that are not copies.

    It assumes that drawn images that are not copies are as far from training images as real ones. But
    blurred images are closer in pixels, so a high likelihood is a reason to look at the image.

    Args:
      drawn_distances: float [M], distances of drawn images to their nearest training images.
      heldout_distances: float [N], those of held-out real images to the same training images.

    Raises:
      UserError: there are no distances on one side.
    """
    if not len(drawn_distances) or not len(heldout_distances):
        raise UserError(
            "the likelihood of a copy needs drawn and held-out images, but there are "
            f"{len(drawn_distances)} drawn and {len(heldout_distances)} held-out ones; evaluate at least "
            "one of each"
        )
    distances = np.sort(drawn_distances)
    share_drawn = np.searchsorted(distances, distances, side="right") / len(distances)
    share_heldout = _estimate_share_within(distances, np.sort(heldout_distances))
    rates = np.minimum(1, share_heldout / share_drawn)
    # The lowest rate of all larger distances, which is Storey's q-value.
    rates = np.minimum.accumulate(rates[::-1])[::-1]
    return 1 - rates[np.searchsorted(distances, drawn_distances)]


def _estimate_share_within(distances: np.ndarray, heldout: np.ndarray) -> np.ndarray:
    """Return the estimated share of images that lie within each distance without copying, float64 [M].

    The share is (1 + n) / (1 + N) if n of N held-out images are within the distance. This is at least
    1 / (1 + N), which is too large for a copy. Below the distance of the k-th nearest held-out image, the
    share is therefore a power of the distance. Small distances between neighbors have such a distribution,
    whose power is the dimension of the data (Levina and Bickel, 2004, "Maximum likelihood estimation of
    intrinsic dimension"). The estimate averages over the distribution of the power given these k images,
    so it accounts for the uncertainty of the power.

    Args:
      distances: float [M].
      heldout: float [N], the distances of held-out images, sorted.
    """
    n = len(heldout)
    shares = (1 + np.searchsorted(heldout, distances, side="right")) / (1 + n)
    k = math.ceil(math.sqrt(n))
    edge = heldout[k - 1]
    if k < 3 or heldout[0] <= 0:
        return shares  # held-out images that are copies do not fit a power
    total = np.sum(np.log(edge / heldout[:k]))
    if total == 0:
        return shares
    with np.errstate(divide="ignore"):
        logs = np.log(edge / np.maximum(distances, 0))  # infinite for an exact copy
    is_below = logs > 0
    # The power has a gamma distribution with shape k - 1 and rate `total`, for the improper prior
    # 1 / power. Averaging exp(-power * log) over it gives this.
    shares[is_below] = (1 + k) / (1 + n) * (1 + logs[is_below] / total) ** (1 - k)
    return shares


def group_duplicates(images: np.ndarray) -> list[list[int]]:
    """Return the rows of images that occur more than once, unchanged or mirrored.

    Args:
      images: uint8 [N, height, width, channels].

    Returns:
      A list of rows for each image that occurs more than once, in the order of the rows.
    """
    groups: dict[bytes, list[int]] = {}
    for row, image in enumerate(images):
        digests = (_hash(image), _hash(image[:, ::-1]))
        groups.setdefault(min(digests), []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _hash(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image)).digest()
