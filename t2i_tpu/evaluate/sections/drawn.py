"""Shows drawn images next to the real images of the same prompt or label."""

import numpy as np

from t2i_tpu.evaluate.sections.section import Context, Section
from t2i_tpu.sample.pictures import draw_grid

_COUNT = 32
_TITLES = {"train": "training prompts", "heldout": "held-out prompts"}


def measure(context: Context) -> Section:
    """Return a grid of the first images of each split's first set."""
    pictures = {}
    for name, split in context.splits.items():
        if not split.own_images:
            continue
        cells = []
        for image, row in zip(split.drawn[0][:_COUNT], split.rows, strict=False):
            both = np.concatenate([image, split.real.images[row]], axis=1)
            cells.append((both, split.real.captions[row]))
        pictures[name] = draw_grid([(f"{_TITLES[name]}: drawn | real", cells)])
    return Section({}, pictures)
