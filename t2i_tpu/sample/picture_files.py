"""Reads pictures, and writes pictures and animations, on disk or gs://."""

import io
from collections.abc import Sequence

import tensorflow as tf
from PIL import Image, PngImagePlugin

from t2i_tpu.errors import UserError
from t2i_tpu.storage import outputs


def read_picture(path: str) -> Image.Image:
    """Read a picture, local or gs://. Raises UserError if it cannot be read."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return Image.open(io.BytesIO(file.read())).convert("RGB")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def save_picture(picture: Image.Image, path: str, frames: Sequence[Image.Image] = ()) -> None:
    """Write a picture as PNG, or as an animation that repeats forever if `path` ends in .gif.

    Args:
      picture: the PNG, or the first frame.
      path: local or gs://. The file appears only when it is complete.
      frames: the other frames of the animation.

    Raises:
      UserError: the file cannot be written.
    """
    buffer = io.BytesIO()
    if path.lower().endswith(".gif"):
        options = dict(duration=80, loop=0, comment=outputs.MARK)
        picture.save(buffer, "GIF", save_all=True, append_images=list(frames), **options)
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", outputs.MARK)
        picture.save(buffer, "PNG", pnginfo=text)
    outputs.write_file(path, buffer.getvalue())
