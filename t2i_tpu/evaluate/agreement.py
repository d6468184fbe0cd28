"""Measures how well images agree with the prompts or labels for which they were drawn."""

from collections.abc import Sequence

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.distances.distance import Figure

_MOST_CAPTIONS = 100
LEAST_CAPTIONS = 20  # with fewer, a guess would be right too often
_TIE = 1e-9  # rounding of cosines in float64 is smaller

FIGURES = (
    Figure(
        "clip_score",
        "CLIP score",
        "higher",
        "100 times the cosine between CLIP's features of an image and those of its prompt, averaged "
        "over the images. Compare it only with scores of the same CLIP, such as that of the real "
        "images.",
    ),
    Figure(
        "retrieval_at_1",
        "Right prompt ranked first",
        "higher",
        "The share of images for which CLIP ranks their own prompt first among different prompts. "
        "With 100 prompts, guessing would reach 0.01.",
    ),
    Figure(
        "retrieval_at_5",
        "Right prompt ranked in the top 5",
        "higher",
        "The share of images for which CLIP ranks their own prompt among the first five. With 100 "
        "prompts, guessing would reach 0.05.",
    ),
    Figure(
        "mean_reciprocal_rank",
        "Mean reciprocal rank",
        "higher",
        "The mean of 1 over the rank of the right prompt: 1 if it is always first, and 1/2 if it is "
        "always second. With 100 prompts, guessing would reach 0.05.",
    ),
    Figure(
        "prompts_ranked",
        "Number of prompts ranked",
        "",
        "The number of different prompts that CLIP ranks for each image. The right one is easier to "
        "find among fewer prompts, so compare ranks only if this number is the same.",
    ),
    Figure(
        "accuracy",
        "Label accuracy",
        "higher",
        "The share of images that a classifier assigns to the label for which they were drawn. "
        "Compare it with the same classifier's accuracy on real images.",
    ),
)


def compute_agreement(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], seed: int
) -> dict[str, float]:
    """Return the CLIP score and figures of the rank of each image's own caption.

    For each image, 99 captions other than its own are chosen at random, and all 100 are ranked by
    their cosine with the image. A tie counts against the model. If there are fewer than 100 different
    captions, all of them are ranked.

    Args:
      images: float [N, dim], features of the images, with norm 1.
      texts: float [N, dim], features of the caption of each image, with norm 1.
      captions: the caption of each image. They may repeat.
      seed: seed for the choice of other captions.

    Returns:
      "clip_score", in [-100, 100]; "retrieval_at_1", "retrieval_at_5" and "mean_reciprocal_rank", in
      [0, 1]; and "prompts_ranked", the number of captions that are ranked for each image.

    Raises:
      UserError: there are too few different captions.
    """
    _, first_rows, own = np.unique(np.asarray(captions), return_index=True, return_inverse=True)
    if len(first_rows) < LEAST_CAPTIONS:
        raise UserError(
            f"ranking prompts needs at least {LEAST_CAPTIONS} different prompts, but there are "
            f"{len(first_rows)}; evaluate more images"
        )
    candidates = texts[first_rows].astype(np.float64)
    num_ranked = min(_MOST_CAPTIONS, len(candidates))
    rng = np.random.default_rng(seed)
    cosines, ranks = np.zeros(len(images)), np.zeros(len(images), int)
    for row, (image, right) in enumerate(zip(images, own, strict=True)):
        others = rng.choice(len(candidates) - 1, num_ranked - 1, replace=False, shuffle=False)
        others += others >= right  # skips the right caption
        cosines[row] = candidates[right] @ image
        ranks[row] = 1 + np.count_nonzero(candidates[others] @ image >= cosines[row] - _TIE)
    return {
        "clip_score": 100 * float(cosines.mean()),
        "retrieval_at_1": float(np.mean(ranks <= 1)),
        "retrieval_at_5": float(np.mean(ranks <= 5)),
        "mean_reciprocal_rank": float(np.mean(1 / ranks)),
        "prompts_ranked": num_ranked,
    }


def compute_accuracy(
    predicted: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, float], dict[int, float]]:
    """Return {"accuracy": ...} and the accuracy for each label that occurs.

    Args:
      predicted: int [N], the label that a classifier assigns to each image.
      labels: int [N], the label for which each image was drawn.
    """
    is_right = predicted == labels
    by_label = {int(label): float(is_right[labels == label].mean()) for label in np.unique(labels)}
    return {"accuracy": float(is_right.mean())}, by_label
