"""Looks for drawn images that are copies of training images."""

import numpy as np
from PIL import Image

from t2i_tpu.evaluate.memorisation import (
    estimate_copy_likelihoods,
    find_nearest,
    find_nearest_images,
    group_duplicates,
)
from t2i_tpu.evaluate.sections.section import Context, Section, round_figure
from t2i_tpu.evaluate.splits import Split
from t2i_tpu.sample.pictures import draw_grid

_MAX_COUNT = 1000  # bounds the time, which is proportional to this times the training images
_NUM_WORST = 16
_LIKELY = 0.95  # in each space, at most one of 20 evaluations without copies reaches this


def measure(context: Context) -> Section | None:
    """Find the training image that is nearest to each drawn image, in pixels and in features.

    The distances of held-out real images to the training images show which distances occur without
    copying.
    """
    train, heldout = context.splits.get("train"), context.splits.get("heldout")
    if not train:
        return None
    images, features = train.drawn[0][:_MAX_COUNT], train.features[0][:_MAX_COUNT]
    spaces = {
        "pixels": find_nearest_images(images, train.real.images),
        "features": find_nearest(features, train.real_features),
    }
    figures = {name: {"drawn": _round(distances)} for name, (distances, _) in spaces.items()}
    likelihoods = {}
    if heldout:
        rows = heldout.rows[:_MAX_COUNT]
        null = {
            "pixels": find_nearest_images(heldout.real.images[rows], train.real.images)[0],
            "features": find_nearest(heldout.real_features[rows], train.real_features)[0],
        }
        for name, (distances, _) in spaces.items():
            figures[name]["heldout"] = _round(null[name])
            likelihoods[name] = estimate_copy_likelihoods(distances, null[name])
        most = np.maximum(likelihoods["pixels"], likelihoods["features"])
        figures["num_flagged"] = int((most >= _LIKELY).sum())
    figures["num_checked"] = len(images)
    worst = _list_worst(spaces, likelihoods)
    figures["worst"] = [_describe(train, *entry) for entry in worst]
    figures["duplicates"] = [
        [train.real.keys[row] for row in group] for group in group_duplicates(train.real.images)
    ]
    return Section(figures, {"worst": _draw_worst(train, worst)})


def _list_worst(spaces, likelihoods) -> list[tuple[int, str, int, float, float | None]]:
    """Return (drawn image, space, training image, distance, likelihood) of the most likely copies."""
    entries = []
    for space, (distances, nearest) in spaces.items():
        shares = likelihoods.get(space)
        for index in np.argsort(distances, kind="stable")[:_NUM_WORST]:
            likelihood = None if shares is None else float(shares[index])
            entries.append(
                (int(index), space, int(nearest[index]), float(distances[index]), likelihood)
            )
    # The sort is stable: distances in pixels and in features cannot be compared with each other.
    entries.sort(key=lambda entry: -(entry[4] or 0.0))
    return entries[:_NUM_WORST]


def _describe(train: Split, index, space, row, distance, likelihood) -> dict[str, object]:
    return {
        "drawn_for": train.captions[index],
        "nearest": train.real.captions[row],
        "nearest_key": train.real.keys[row],
        "space": space,
        "distance": round_figure(distance),
        "likelihood": None if likelihood is None else round_figure(likelihood),
    }


def _draw_worst(train: Split, worst) -> Image.Image:
    """Return a grid of the most likely copies, each next to its nearest training image."""
    cells = []
    for index, space, row, _, likelihood in worst:
        both = np.concatenate([train.drawn[0][index], train.real.images[row]], axis=1)
        share = "" if likelihood is None else f" {likelihood:.0%}"
        cells.append((both, f"{space}{share}"))
    return draw_grid([("most likely copies: drawn | nearest training image", cells)])


def _round(distances: np.ndarray) -> list[float]:
    return [round_figure(float(value)) for value in distances]
