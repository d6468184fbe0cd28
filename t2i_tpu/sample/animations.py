"""Encodes animations: GIF, animated WebP and MP4."""

import fractions
import io
from collections.abc import Sequence

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.sample import records as records_lib
from t2i_tpu.sample.pictures import enlarge

ENDINGS = (".gif", ".mp4", ".webp")
FRAMES_PER_SECOND = 12.5
# Frames of a video are enlarged until their shorter side has at least this many pixels. Videos store
# colors at half the resolution, so the pixels of a small image would run into each other.
_VIDEO_CELL = 256
# The color space of videos. The files name it, because players guess differently without a label.
_BT709, _LIMITED_RANGE = 1, 1
# Web browsers slow down a GIF whose frames are shorter, in milliseconds.
_MIN_GIF_DURATION = 20


def check_frames_per_second(value: float) -> None:
    """Raise UserError if a number of frames per second is out of range."""
    if not 0.1 <= value <= 60:
        raise UserError(f"frames_per_second={value:g}: it must be from 0.1 to 60")


def make_boomerang(images: np.ndarray) -> np.ndarray:
    """Return frames that run forward and back, so that the animation repeats without a jump."""
    return np.concatenate([images, images[-2:0:-1]])


def encode_animation(
    images: np.ndarray,
    ending: str,
    frames_per_second: float = FRAMES_PER_SECOND,
    records: Sequence[dict] = (),
) -> bytes:
    """Return the content of a file that shows images, uint8 [N, H, W, C], one after another.

    A GIF or WebP repeats forever.

    Args:
      images: the frames.
      ending: one of ENDINGS.
      frames_per_second: from 0.1 to 60.
      records: the records of the images, for the file's metadata.

    Raises:
      UserError: the package that writes videos is missing, or `frames_per_second` is out of range.
    """
    check_frames_per_second(frames_per_second)
    text = records_lib.pack(records)
    if ending == ".mp4":
        return _encode_mp4(images, frames_per_second, text)
    buffer, (first, *others) = io.BytesIO(), [enlarge(image) for image in images]
    options = dict(save_all=True, append_images=others, loop=0)
    if ending == ".gif":
        duration = max(_MIN_GIF_DURATION, round(100 / frames_per_second) * 10)
        comment = records_lib.to_comment(text)
        first.save(buffer, "GIF", duration=duration, comment=comment, **options)
    else:
        options |= dict(duration=round(1000 / frames_per_second), lossless=True)
        first.save(buffer, "WEBP", exif=records_lib.to_exif(text), **options)
    return buffer.getvalue()


def import_av():
    """Return the package av, which reads and writes videos. Raises UserError if it is missing."""
    try:
        import av
    except ImportError:
        raise UserError(
            ".mp4 needs the package av; pip install -e '.[video]', or use .gif"
        ) from None
    return av


def find_records(content: bytes) -> str:
    """Return the packed records in an MP4 file, or "" if it has none."""
    with import_av().open(io.BytesIO(content)) as container:
        return records_lib.find_in_comment(container.metadata.get("comment", ""))


def _encode_mp4(images: np.ndarray, frames_per_second: float, text: str) -> bytes:
    """Return an H.264 video that all browsers and players show."""
    av = import_av()
    buffer = io.BytesIO()
    scale = max(1, -(-_VIDEO_CELL // min(images.shape[1:3])))
    # This pixel format needs an even height and width.
    height, width = (side * scale + side * scale % 2 for side in images.shape[1:3])
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = records_lib.to_comment(text)
        rate = fractions.Fraction(frames_per_second).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        for image in images:
            pixels = np.asarray(enlarge(image, scale))
            missing = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, missing, mode="edge"), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
