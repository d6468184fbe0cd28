"""Checks images and features, so that no figure is computed from unusable ones."""

import numpy as np

from t2i_tpu.errors import UserError

_CHUNK = 1024  # rows that are checked at a time


def count_plain(images: np.ndarray) -> int:
    """Return the number of images, uint8 [N, H, W, C], that have only one color."""
    return sum(int((image == image[0, 0]).all()) for image in images)


def check_images(images: np.ndarray, what: str) -> None:
    """Raise UserError if there are no images, or if every image has only one color.

    Args:
      images: uint8 [N, height, width, channels].
      what: description for messages, such as "drawn images".
    """
    if not len(images):
        raise UserError(f"there are no {what}; evaluate at least one")
    if count_plain(images) == len(images):
        color = tuple(images[0, 0, 0].tolist())
        raise UserError(
            f"each of the {len(images)} {what} has only one color, such as {color}; look at them, and "
            "train longer or evaluate another checkpoint or data set"
        )


def check_features(features: np.ndarray, what: str) -> None:
    """Raise UserError if there are no images, a feature is not finite, or all features are equal.

    Args:
      features: float [N, dim].
      what: description for messages, such as "drawn images".
    """
    if not len(features):
        raise UserError(f"there are no {what}; evaluate at least one")
    is_varied = len(features) == 1
    for start in range(0, len(features), _CHUNK):
        chunk = features[start : start + _CHUNK]
        is_finite = np.isfinite(chunk).all(axis=1)
        if not is_finite.all():
            row = int(np.argmin(is_finite))
            raise UserError(
                f"the features of image {start + row} of the {what} contain "
                f"{_describe_first_nonfinite(chunk[row])}; check this image and the extractor's weights"
            )
        is_varied = is_varied or bool(np.any(chunk != features[0]))
    if not is_varied:
        raise UserError(
            f"all {len(features)} {what} have the same features; look at the images, and evaluate "
            "another checkpoint, data set or extractor"
        )


def _describe_first_nonfinite(features: np.ndarray) -> str:
    value = features[~np.isfinite(features)][0]
    return "NaN" if np.isnan(value) else str(float(value))
