"""Says what becomes of an item that a source has read."""

from t2i_tpu.data.prepare.clean import clean_caption
from t2i_tpu.data.prepare.rejected import Rejected


def find_outcome(item):
    """Return the text in the image and the caption, or the cause of the rejection."""
    if item.problem:
        return item.problem
    try:
        return item.image.decode() + " " + clean_caption(item.caption)
    except Rejected as rejection:
        return rejection.cause
