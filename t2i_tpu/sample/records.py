"""Keeps the records of drawn images as JSON in the metadata of picture files.

A record is a dict that holds everything needed to draw an image again. The JSON ends with MARK and the
version of its layout. Formats that store their metadata at the end of the file thus end with MARK.
"""

import io
import json
import warnings
from collections.abc import Sequence

from PIL import ExifTags, Image, PngImagePlugin

from t2i_tpu.errors import UserError

# Equal to `storage.outputs.MARK`, which would import TensorFlow.
MARK = "t2i_tpu"
VERSION = 1
# A JPEG holds EXIF metadata of at most this size.
MAX_JPEG_BYTES = 65533 - 6
_PNG_START = b"\x89PNG\r\n\x1a\n"
_ASCII = b"ASCII\0\0\0"  # the prefix of an EXIF user comment


def pack(records: Sequence[dict]) -> str:
    """Return records as one JSON string in ASCII, or "" if there are none.

    Fields that all records share are written once.
    """
    if not records:
        return ""
    texts = [{name: dump(value) for name, value in record.items()} for record in records]
    common = {
        name: value
        for name, value in records[0].items()
        if all(text.get(name) == texts[0][name] for text in texts)
    }
    images = [
        {name: value for name, value in record.items() if name not in common} for record in records
    ]
    return dump({"common": common, "images": images, MARK: VERSION})


def dump(value: object) -> str:
    """Return a value as JSON. NumPy scalars and arrays become plain numbers and lists."""
    return json.dumps(value, default=lambda other: other.tolist())


def unpack(text: str, path: str) -> list[dict]:
    """Return the records in a string that `pack` returned.

    Args:
      text: the string.
      path: the file that it was read from, for messages.

    Raises:
      UserError: the text is damaged, or a newer version wrote it.
    """
    try:
        document = json.loads(text)
        version = document[MARK]
        if version == VERSION:
            return [document["common"] | image for image in document["images"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path}: a newer t2i_tpu wrote its metadata (version {version}, but this program reads "
            f"version {VERSION}); update t2i_tpu"
        )
    raise UserError(f"{path}: its metadata is damaged; use the file that t2i_tpu wrote")


def describe_prompt(record: dict) -> str:
    """Describe what an image shows, for the title of its section in a grid.

    The description of a frame names all key points.
    """
    points = [(_join_parts(prompt), seed) for prompt, seed in record.get("key_points", [])]
    if not points:
        return _join_parts(record.get("prompt", ""))
    prompts, seeds = (list(dict.fromkeys(values)) for values in zip(*points, strict=True))
    if len(prompts) == 1:
        return f"{prompts[0]}, seed {' → '.join(str(seed) for _, seed in points)}"
    if len(seeds) == 1:
        return f"{' → '.join(prompt for prompt, _ in points)}, seed {seeds[0]}"
    return " → ".join(f"{prompt}, seed {seed}" for prompt, seed in points)


def _join_parts(prompt: str | Sequence) -> str:
    """Return a prompt as one string, such as "a cat:1 a hat:0.5" for pairs of a string and a weight."""
    if isinstance(prompt, str):
        return prompt
    return " ".join(f"{text}:{weight:g}" for text, weight in prompt)


def describe_image(record: dict) -> str:
    """Return what distinguishes an image from others in its section, such as "seed 7" or "frame 3"."""
    for name in ("frame", "seed"):
        if name in record:
            return f"{name} {record[name]}"
    return ""


def to_png(text: str) -> PngImagePlugin.PngInfo:
    """Return the metadata of a PNG that holds packed records."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", MARK)
    if text:
        info.add_text(MARK, text)
    return info


def to_exif(text: str) -> Image.Exif:
    """Return the EXIF metadata of a JPEG or WebP that holds packed records."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = MARK
    if text:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: _ASCII + text.encode("ascii")}
    return exif


def to_comment(text: str) -> str:
    """Return the comment of a GIF or MP4 that holds packed records."""
    return f"{MARK} {text}".rstrip()


def find_in_picture(content: bytes) -> str:
    """Return the packed records in the metadata of a picture file, or "" if it has none.

    Raises:
      Exception: any, if the file is damaged or not a picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged metadata
        if content.startswith(_PNG_START):
            # Unlike Image.open, this reads the metadata of a grid of any size.
            picture = PngImagePlugin.PngImageFile(io.BytesIO(content))
            if MARK not in picture.info:
                picture.load()  # another program may have moved the metadata after the pixels
            return picture.info.get(MARK, "")
        picture = Image.open(io.BytesIO(content))
        comment = picture.info.get("comment", b"") if picture.format == "GIF" else b""
        if not comment:
            exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
            comment = exif.get(ExifTags.Base.UserComment, b"")
    if isinstance(comment, str):
        comment = comment.encode(errors="replace")
    return find_in_comment(comment.removeprefix(_ASCII).decode(errors="replace"))


def find_in_comment(comment: str) -> str:
    """Return the packed records in a comment, or "" if it has none."""
    text = comment.removeprefix(MARK).strip()
    return text if text.startswith("{") and MARK in text else ""
