"""A classifier two-sample test, which shows whether a classifier can tell drawn from real images.

Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests" (arXiv:1610.06545). A classifier
is trained on one half of the images. Its accuracy on the other half is about 1/2 if both kinds of
images come from the same distribution.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.distances.distance import Figure

LEAST_COUNT = 20  # images of each kind; with very few, no accuracy could have a small p-value
_MOST_COUNT = 5000  # images of each kind, so that they fit in memory

FIGURES = (
    Figure(
        "two_sample_accuracy",
        "Accuracy in telling drawn from real",
        "lower",
        "How often a classifier that was trained on half of the images is right about whether each of "
        "the others is drawn or real. It is around 0.5 if the classifier can only guess, and 1 if it is "
        "always right.",
    ),
    Figure(
        "two_sample_p_value",
        "p-value of this accuracy",
        "higher",
        "How likely an accuracy this high would be if drawn and real images did not differ. If it is "
        "below 0.05, the classifier has most likely found a difference; otherwise, there is no evidence "
        "of one.",
    ),
)


def compute_two_sample_test(real: np.ndarray, drawn: np.ndarray, seed: int) -> dict[str, float]:
    """Return "two_sample_accuracy" and "two_sample_p_value".

    An equal number of images of each kind is chosen at random. If both sets have the same size, the
    same rows of both are chosen, and the same rows are used for training. A drawn and a real image of
    the same prompt are therefore never in different halves.

    Args:
      real: float [N, dim].
      drawn: float [M, dim].
      seed: seed for the choice of the images and of the half that is used for training.

    Raises:
      UserError: there are too few images.
    """
    count = min(len(real), len(drawn), _MOST_COUNT)
    if count < LEAST_COUNT:
        raise UserError(
            f"the two-sample test needs at least {LEAST_COUNT} images of each kind, but there are "
            f"{len(real)} real and {len(drawn)} drawn ones; evaluate more images"
        )
    order = np.random.default_rng(seed).permutation(max(len(real), len(drawn)))
    real, drawn = (
        np.asarray(points[order[order < len(points)][:count]]) for points in (real, drawn)
    )
    num_trained = count // 2
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(
        np.concatenate([real[:num_trained], drawn[:num_trained]]),
        np.repeat([False, True], num_trained),
    )
    return _judge(classifier.predict(real[num_trained:]), classifier.predict(drawn[num_trained:]))


def _judge(real_guesses: np.ndarray, drawn_guesses: np.ndarray) -> dict[str, float]:
    """Return the accuracy and the p-value of guesses.

    The p-value is the share of all permutations of the test images' labels that give the same accuracy
    or a higher one. A permutation decides which of the images that are guessed to be drawn have this
    label. Their number has a hypergeometric distribution, and the accuracy increases with it. Fisher's
    exact test sums this distribution, so its p-value is that of all permutations.

    Args:
      real_guesses: bool [K], whether each real test image is guessed to be drawn.
      drawn_guesses: bool [K], the same for the drawn test images.
    """
    hits, false_alarms, count = int(drawn_guesses.sum()), int(real_guesses.sum()), len(real_guesses)
    table = [[hits, count - hits], [false_alarms, count - false_alarms]]
    return {
        "two_sample_accuracy": (hits + count - false_alarms) / (2 * count),
        "two_sample_p_value": float(scipy.stats.fisher_exact(table, alternative="greater").pvalue),
    }


def combine_p_values(p_values: Sequence[float]) -> float:
    """Return a p-value for the tests of several sets of images together.

    Their mean is none, and the tests share their real images. But twice the mean is a p-value, however
    they depend on each other (Vovk and Wang, 2020, "Combining p-values via averaging").

    Args:
      p_values: the p-value of each test, at least one.
    """
    if len(p_values) == 1:
        return p_values[0]
    return min(1.0, 2 * float(np.mean(p_values)))
