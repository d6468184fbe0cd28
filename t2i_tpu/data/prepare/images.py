"""Any image -> uint8 [size, size, channels] in sRGB on white."""

import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

from t2i_tpu.data.prepare.rejected import Lost

CROPS = ("center", "none")
_MAX_PIXELS = 100_000_000  # more is taken for a decompression bomb
_SRGB = ImageCms.createProfile("sRGB")


def decode(source: bytes | np.ndarray) -> Image.Image:
    """An image that is lazy where it can be: size is known, pixels are not yet decoded.

    Raises:
      Lost: empty_image, not_an_image or decompression_bomb.
    """
    if isinstance(source, np.ndarray):
        channels = source.shape[2] if source.ndim == 3 else 1
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4):
            raise Lost("not_an_image")
        return Image.fromarray(source[:, :, 0] if source.ndim == 3 and channels == 1 else source)
    if not source:
        raise Lost("empty_image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is checked below
            image = Image.open(io.BytesIO(source))
    except Image.DecompressionBombError:
        raise Lost("decompression_bomb") from None
    except Exception:  # decoders of hostile bytes raise anything
        raise Lost("not_an_image") from None
    if image.width * image.height > _MAX_PIXELS:
        raise Lost("decompression_bomb")
    return image


def square(image: Image.Image, size: int, crop: str, channels: int = 3) -> np.ndarray:
    """uint8 [size, size, channels] of what `decode` returned: its first frame, upright, in sRGB, on
    white. With crop "center" the middle square, with "none" all of it, white beside it.

    Raises:
      Lost: truncated_image or not_an_image.
    """
    try:
        if image.format == "JPEG":  # decodes at 1/2, 1/4 or 1/8 where that is still twice as large
            image.draft(None, (2 * size, 2 * size))
        image.load()
        image = on_white(to_srgb(ImageOps.exif_transpose(image)))
    except OSError as error:
        told = str(error)
        raise Lost("truncated_image" if "truncated" in told else "not_an_image") from None
    except Exception:  # decoders of hostile bytes raise anything
        raise Lost("not_an_image") from None
    if channels == 1:
        image = image.convert("L")
    if crop == "center":
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    else:
        image = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="white")
    return np.asarray(image).reshape(size, size, channels)


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB, of any mode; a profile that is broken or of another mode is ignored."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _eight_bits(image).convert("RGB")
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


def on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers are of 16 bits, floats lie in [0, 1] or else in [0, 255]."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values) * (255 if np.nanmax(values) <= 1 else 1)
    else:
        values /= 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
