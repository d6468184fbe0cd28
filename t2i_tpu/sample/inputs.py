"""Reads the images and masks that a user wants to edit: files, PIL pictures or arrays.

This module does not import TensorFlow for local files.
"""

import os
import warnings

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from t2i_tpu.data.prepare import images
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.errors import UserError
from t2i_tpu.sample.picture_files import read_bytes

# The causes for which `images.open_image` and `images.make_square` reject an image, in words.
_CAUSES = {
    "empty_image": "is empty; copy the file again",
    "git_lfs_pointer": "is a Git LFS pointer; download the file itself with git lfs pull",
    "decompression_bomb": "has more than 100 million pixels; make it smaller",
    "truncated_image": "is truncated; copy the file again",
    "not_an_image": "is not a picture that can be read; convert it to PNG",
}


def read_image(source, size: int, channels: int = 3, name: str = "image") -> np.ndarray:
    """Return an image as a square of the model's size.

    The image is turned upright according to its EXIF data and converted to sRGB, and transparent parts
    become white. If its size differs, its middle square is resized, and a warning says so.

    Args:
      source: a path (local, ~ or gs://), a PIL picture, or an array [H, W] or [H, W, 1, 3 or 4] of
        integers from 0 to 255, uint16, or floats from 0 to 1.
      size: height and width of the result in pixels.
      channels: 3, or 1 for gray.
      name: the name of the source in messages, if it is not a file.

    Returns:
      uint8 [size, size, channels].

    Raises:
      UserError: the source cannot be read or used.
    """
    picture, name = _open(source, name)
    _warn_if_changed(picture, size, name)
    return _make_square(picture, size, channels, name)


def read_masked_image(source, mask, size: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and the mask of the pixels to repaint, for inpainting.

    If the image is cropped and resized, as in `read_image`, so is the mask. A pixel is repainted if the
    mask covers any part of it.

    Args:
      source: the image; see `read_image`.
      mask: a black and white image of the same size. Its white pixels (at least half white, or 1 or True
        in an array) are repainted, and the others are kept. Transparent pixels count as black. If the
        mask is None, the transparent parts of the image are repainted.
      size: height and width of the results in pixels.
      channels: 3, or 1 for gray.

    Returns:
      The image, uint8 [size, size, channels], and the mask, bool [size, size].

    Raises:
      UserError: the image or the mask cannot be used, they differ in size, or the mask is empty.
    """
    picture, name = _open(source, "image")
    if mask is None:
        covered = _find_transparent(picture, name)
        mask_name = name
    else:
        mask_picture, mask_name = _open(mask, "mask", scale_ones=True)
        if mask_picture.size != picture.size:
            raise UserError(
                f"{mask_name} has {_describe_size(mask_picture)}, but {name} has "
                f"{_describe_size(picture)}; the mask must have the image's size"
            )
        covered = _find_white(mask_picture, mask_name)
    if not covered.any():
        raise UserError(
            f"{mask_name} is all black, so nothing would be drawn; make a part of it white"
        )
    _warn_if_changed(picture, size, name)
    pixels = _make_square(picture, size, channels, name)
    return pixels, _shrink_mask(covered, size)


def _open(source, name: str, scale_ones: bool = False) -> tuple[Image.Image, str]:
    """Open a source and turn it upright. Return the picture and its name for messages.

    Args:
      source: a path, PIL picture or array.
      name: the name in messages, if the source is not a file.
      scale_ones: whether 1 may mean white in arrays of integers.
    """
    try:
        if isinstance(source, str | os.PathLike):
            name = os.fspath(source)
            picture = images.open_image(read_bytes(source))
        elif isinstance(source, Image.Image):
            picture = source.copy()
        else:
            picture = images.open_image(_convert_pixels(source, name, scale_ones))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about damaged metadata
            picture.load()
        picture = images.rotate_upright(picture)
    except UserError:
        raise
    except Rejected as error:
        raise UserError(f"{name} {_CAUSES[error.cause]}") from None
    except Exception as error:  # hostile bytes can make a decoder raise any error
        is_truncated = "truncated" in str(error).lower()
        cause = "truncated_image" if is_truncated else "not_an_image"
        raise UserError(f"{name} {_CAUSES[cause]}") from None
    if not (picture.width and picture.height):
        raise UserError(f"{name} has no pixels")
    return picture, name


def _convert_pixels(source, name: str, scale_ones: bool) -> np.ndarray:
    """Return an array as uint8 [H, W] or [H, W, 1, 3 or 4]."""
    try:
        pixels = np.asarray(source)
    except (TypeError, ValueError):
        pixels = np.empty(0, object)
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.dtype.kind not in "biuf" or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    ):
        raise UserError(
            f"{name} must be a path, a PIL picture, or an array [height, width, channels] with 1, 3 or 4 "
            f"channels, not {_describe_source(source, pixels)}"
        )
    if not pixels.size:
        raise UserError(f"{name} has no pixels")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == bool or (scale_ones and pixels.dtype.kind in "iu" and high <= 1):
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return np.rint(pixels / 257).astype(np.uint8)
    is_float = pixels.dtype.kind == "f"
    if not (low >= 0 and high <= (1 if is_float else 255)):
        raise UserError(
            f"{name} has values from {low:g} to {high:g}; floats must be from 0 to 1, and integers from "
            "0 to 255"
        )
    return np.rint(pixels * 255 if is_float else pixels).astype(np.uint8)


def _make_square(picture: Image.Image, size: int, channels: int, name: str) -> np.ndarray:
    try:
        return images.make_square(picture, size, "center", channels)
    except Rejected as error:
        raise UserError(f"{name} {_CAUSES[error.cause]}") from None


def _find_transparent(picture: Image.Image, name: str) -> np.ndarray:
    """Return a mask, bool [H, W], of the pixels that are more transparent than opaque."""
    if picture.has_transparency_data:
        covered = np.asarray(picture.convert("RGBA").getchannel("A")) < 128
        if covered.any():
            return covered
    raise UserError(
        f"{name} has no transparent parts that could be repainted; give a mask as well, or erase a part "
        "of the image"
    )


def _find_white(picture: Image.Image, name: str) -> np.ndarray:
    """Return a mask, bool [H, W], of the pixels that are white when the picture is put on black."""
    picture = images.convert_to_srgb(picture)
    if picture.mode == "RGBA":
        black = Image.new("RGBA", picture.size, "black")
        black.alpha_composite(picture)
        picture = black
    gray = np.asarray(picture.convert("L"))
    if gray.max() == 1:  # a mask of zeros and ones
        return gray == 1
    if np.mean((gray > 32) & (gray < 223)) > 0.25:
        logging.warning(
            "%s has many gray pixels for a mask; those that are at least half white are repainted",
            name,
        )
    return gray >= 128


def _shrink_mask(covered: np.ndarray, size: int) -> np.ndarray:
    """Crop a mask, bool [H, W], to its middle square and resize it, as `make_square` does with images."""
    area = Image.fromarray(covered.astype(np.float32))
    return np.asarray(ImageOps.fit(area, (size, size), Image.Resampling.BOX)) > 1e-4


def _warn_if_changed(picture: Image.Image, size: int, name: str) -> None:
    if picture.size != (size, size):
        part = "it" if picture.width == picture.height else "its middle square"
        words = f"{name} has {_describe_size(picture)}; {part} is resized to {size}x{size}"
        logging.warning("%s", words)


def _describe_size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} pixels"


def _describe_source(source, pixels: np.ndarray) -> str:
    if pixels.dtype.kind in "biuf" and pixels.ndim:
        return f"{pixels.dtype} {list(pixels.shape)}"
    return f"a {type(source).__name__}"
