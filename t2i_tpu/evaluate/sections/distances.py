"""Measures the distances between drawn and real images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from t2i_tpu.evaluate.distances.distance import Distance
from t2i_tpu.evaluate.distances.find import list_distances
from t2i_tpu.evaluate.sections.section import Context, Section, summarize
from t2i_tpu.evaluate.splits import Split

# The most real images to compare with, unless more are drawn. The time grows with the square of their
# number, and the number of drawn images limits how exact a figure is.
_MOST_REAL = 5000


def measure(context: Context) -> Section:
    """Measure every distance on each split, and between the real images of both splits."""
    figures = {}
    for name, split in context.splits.items():
        real, is_paired = _choose_real(split)
        real = _thin_out(real, len(split.rows))
        figures[name] = _compare(real, split.features, is_paired)
    if len(context.splits) == 2:
        train, heldout = context.splits["train"], context.splits["heldout"]
        real = _thin_out(train.real_features, len(train.rows))
        sets = [_thin_out(heldout.real_features, len(heldout.rows))]
        figures["real"] = _compare(real, sets, False)
    return Section(figures)


def _choose_real(split: Split) -> tuple[np.ndarray, bool]:
    """Return the features of the real images to compare with, and whether they are paired.

    An image that was drawn for the prompt of a real image resembles this image. Comparing the two would
    make some distances too small, so the real images of other prompts are used if there are enough.
    """
    if not split.own_images:
        return split.real_features, False
    if "label" in split.real.conditions:  # many real images have the same label
        return split.real_features, False
    is_other = np.ones(len(split.real), bool)
    is_other[split.rows] = False
    if is_other.sum() >= len(split.rows):
        return split.real_features[is_other], False
    return split.real_features[split.rows], True


def _thin_out(features: np.ndarray, num_drawn: int) -> np.ndarray:
    """Return the features of at most _MOST_REAL real images, or of as many as were drawn, spread evenly."""
    count = min(len(features), max(_MOST_REAL, num_drawn))
    return features[np.arange(count) * len(features) // count]


def _compare(
    real: np.ndarray, sets: Sequence[np.ndarray], is_paired: bool
) -> dict[str, dict[str, Any]]:
    """Return the figures of every distance between real images and drawn sets, and the numbers of images.

    If there are too few images for a distance, its figures have a reason instead of a value.
    """
    figures = {"images": {"real": len(real), "drawn": len(sets[0]), "same_prompts": is_paired}}
    for distance in list_distances():
        reason = _explain_lack(distance, real, sets[0])
        if reason:
            lack = {"value": None, "reason": reason}
            figures |= {figure.name: lack for figure in distance.figures}
        else:
            compute = distance.compute
            if is_paired and distance.compute_paired:
                compute = distance.compute_paired
            figures |= summarize([compute(real, features) for features in sets])
    return figures


def _explain_lack(distance: Distance, real: np.ndarray, drawn: np.ndarray) -> str | None:
    """Return why there are too few images for a distance, or None."""
    needed, count = distance.count_needed(real.shape[1]), min(len(real), len(drawn))
    if count >= needed:
        return None
    kind = "real" if len(real) < needed else "drawn"
    return f"at least {needed} {kind} images are needed, but there are {count}"
