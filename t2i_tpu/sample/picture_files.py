"""Reads and writes picture files, on disk or gs://. TensorFlow is imported only when it is needed."""

import io
import math
import os
import posixpath
from collections.abc import Sequence

from absl import logging
from PIL import Image

from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.sample import animations
from t2i_tpu.sample import records as records_lib
from t2i_tpu.storage import paths

# The formats of pictures, by the ending of a file's name.
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
_MAX_SIDES = {"JPEG": 65500, "WEBP": 16383}


def get_ending(path: str) -> str:
    """Return the ending of a path, such as ".png", in lower case, or ""."""
    return posixpath.splitext(path)[1].lower()


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the content of a file, local, ~ or gs://. Raises UserError if it cannot be read."""
    path = paths.parse_path(os.fspath(path), "")
    if not paths.is_remote(path):
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    import tensorflow as tf

    from t2i_tpu.storage import files

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {files.explain_error(path, error)}") from error


def read_picture(path: str) -> Image.Image:
    """Read a picture, local or gs://, in RGB. Raises UserError if it cannot be read."""
    content = read_bytes(path)
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception as error:  # a damaged file can make a decoder raise any error
        raise UserError(f"cannot read {path}: {get_first_line(error)}") from error


def read_records(path: str | os.PathLike) -> list[dict]:
    """Return the records of the images in a file that t2i_tpu drew, one dict per image.

    Args:
      path: a picture or animation, local, ~ or gs://.

    Raises:
      UserError: the file cannot be read, has no records, or was written by a newer version.
    """
    content, path = read_bytes(path), os.fspath(path)
    try:
        if content[4:8] == b"ftyp" and get_ending(path) == ".mp4":
            text = animations.find_records(content)
        else:
            text = records_lib.find_in_picture(content)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise any error
        raise UserError(
            f"{path} is not a picture, or it is damaged; use the original file"
        ) from error
    if not text:
        raise UserError(
            f"{path} does not say how it was drawn: t2i_tpu did not write it, or a program that edited, "
            "converted or sent it removed the metadata; use the original file"
        )
    return records_lib.unpack(text, path)


def check_size(size: tuple[int, int], ending: str) -> None:
    """Raise UserError if a picture of a width and height is too large for the format of an ending."""
    limit = _MAX_SIDES.get(PICTURES[ending], math.inf)
    if max(size) > limit:
        raise UserError(
            f"a {ending} picture has at most {limit} pixels per side, and this one would have "
            f"{size[0]}x{size[1]}; use .png, or a folder"
        )


def encode_picture(picture: Image.Image, ending: str, records: Sequence[dict] = ()) -> bytes:
    """Return the content of a picture file.

    Args:
      picture: the picture.
      ending: a key of PICTURES.
      records: the records of the images that the picture shows, for its metadata.

    Raises:
      UserError: the picture is too large for the format.
    """
    format, text = PICTURES[ending], records_lib.pack(records)
    check_size(picture.size, ending)
    if format == "PNG":
        options = dict(pnginfo=records_lib.to_png(text))
    else:
        options = dict(exif=records_lib.to_exif(text), **_OPTIONS[format])
    if format == "JPEG" and len(options["exif"].tobytes()) > records_lib.MAX_JPEG_BYTES:
        logging.warning(
            "a JPEG has no room for the records of %d images, so they cannot be drawn again; use .png",
            len(records),
        )
        options["exif"] = records_lib.to_exif("")
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def save_picture(picture: Image.Image, path: str, records: Sequence[dict] = ()) -> None:
    """Write a picture in the format of the path's ending.

    Args:
      picture: the picture.
      path: local or gs://, with an ending in PICTURES. The file appears only when it is complete.
      records: the records of the images that the picture shows, for its metadata.

    Raises:
      UserError: the file cannot be written.
    """
    from t2i_tpu.storage import outputs

    outputs.write_file(path, encode_picture(picture, get_ending(path), records))
