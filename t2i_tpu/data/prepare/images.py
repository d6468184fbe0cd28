"""Converts images of any format and mode to sRGB on white, uint8 [size, size, channels]."""

import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.sources.file_names import GIT_LFS_START, IMAGE_FORMATS

_MAX_PIXELS = 100_000_000  # a larger image is taken for a decompression bomb
_SRGB = ImageCms.createProfile("sRGB")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # more than 8 bits per channel
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# The keywords of text chunks that may say how the image is rotated.
_PNG_ROTATIONS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
# Pillow refuses an image if a compressed profile or text is larger than this, 1 MB by default.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 24


def open_image(source: bytes | np.ndarray) -> Image.Image:
    """Open an image, and read its size without decoding its pixels.

    Args:
      source: the bytes of a file, or pixels, uint8 [H, W] or [H, W, C] with C = 1, 3 or 4.

    Raises:
      Rejected: empty_image, git_lfs_pointer, not_an_image or decompression_bomb.
    """
    if isinstance(source, np.ndarray):
        return _open_pixels(source)
    if not source:
        raise Rejected("empty_image")
    if source.startswith(GIT_LFS_START):
        raise Rejected("git_lfs_pointer")
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images, which are checked below.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(_drop_texts(source)), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError:
        raise Rejected("decompression_bomb") from None
    except Exception:  # hostile bytes can make a decoder raise any error
        raise Rejected("not_an_image") from None
    if image.width * image.height > _MAX_PIXELS:
        raise Rejected("decompression_bomb")
    return image


def _drop_texts(content: bytes) -> bytes:
    """Remove the text chunks of a PNG file, in which editors and image generators store megabytes.

    Pillow would refuse the image if they are too large. Other files are returned unchanged.
    """
    if not content.startswith(_PNG_SIGNATURE):
        return content
    parts, start = [], len(_PNG_SIGNATURE)
    kept_from = 0
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        is_text = content[start + 4 : start + 8] in _PNG_TEXTS
        if is_text and not content.startswith(_PNG_ROTATIONS, start + 8):
            parts.append(content[kept_from:start])
            kept_from = end
        start = end
    return b"".join((*parts, content[kept_from:])) if parts else content


def _open_pixels(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise Rejected("not_an_image")
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(pixels)


def make_square(image: Image.Image, size: int, crop: str, channels: int = 3) -> np.ndarray:
    """Return the first frame of an image as a square: upright, in sRGB and on a white background.

    Args:
      image: an image that `open_image` returned.
      size: side of the square in pixels.
      crop: "center" crops the image to its middle square; "none" pads the full image with white.
      channels: 3, or 1 for gray.

    Returns:
      Pixels, uint8 [size, size, channels].

    Raises:
      Rejected: truncated_image, not_an_image or decompression_bomb.
    """
    try:
        if image.format == "JPEG":
            # Decode at 1/2, 1/4 or 1/8 of the resolution if that is still at least twice the size.
            image.draft(None, (2 * size, 2 * size))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about damaged metadata
            image.load()
            image = put_on_white(convert_to_srgb(rotate_upright(image)))
    except Image.DecompressionBombError:
        raise Rejected("decompression_bomb") from None
    except OSError as error:
        is_truncated = "truncated" in str(error).lower()
        raise Rejected("truncated_image" if is_truncated else "not_an_image") from None
    except Exception:  # hostile bytes can make a decoder raise any error
        raise Rejected("not_an_image") from None
    if channels == 1:
        image = image.convert("L")
    if crop == "center":
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    else:
        image = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="white")
    return np.asarray(image).reshape(size, size, channels)


def rotate_upright(image: Image.Image) -> Image.Image:
    """Rotate an image according to its EXIF data, which is ignored if it is damaged."""
    try:
        image.getexif()
        # Pillow would also write all EXIF data again, which fails if some of it is damaged.
        for name in ("exif", "Raw profile type exif"):
            image.info.pop(name, None)
        return ImageOps.exif_transpose(image)
    except Exception:  # hostile bytes can raise any error
        return image


def convert_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB or RGBA in sRGB.

    A color profile that is broken or meant for another mode is ignored.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in _DEEP_MODES:
        return _convert_to_8_bits(image).convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            image = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    image = image.convert("RGB")
    if alpha:
        image.putalpha(alpha)
    return image


def put_on_white(image: Image.Image) -> Image.Image:
    """Replace an image's transparency, if it has any, with a white background."""
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _convert_to_8_bits(image: Image.Image) -> Image.Image:
    """Convert an image of 16-bit integers, or of floats in [0, 1] or [0, 255], to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        scale = 255 if np.nanmax(values) <= 1 else 1
        values = np.nan_to_num(values) * scale
    else:
        values /= 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
