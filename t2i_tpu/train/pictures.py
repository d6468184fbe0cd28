"""Pictures for people: captioned grids, strips and animations, on disk or gs://."""

import io
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from t2i_tpu.data import files
from t2i_tpu.errors import UserError

COLUMNS = 8
CELL = 64  # pixels of the shorter side that an image is enlarged to, at least
GAP, LINE = 8, 14


def grid(sections: dict[str, list[tuple[np.ndarray, str]]], columns: int = COLUMNS) -> Image.Image:
    """Sections of (image uint8 [H, W, C], caption) as one white picture."""
    height, width, _ = next(iter(sections.values()))[0][0].shape
    scale = _scale(next(iter(sections.values()))[0][0])
    cell = (width * scale + GAP, height * scale + GAP + LINE)
    rows = [-(-len(section) // columns) for section in sections.values()]
    columns = min(columns, max(len(section) for section in sections.values()))
    size = (columns * cell[0] + GAP, sum(rows) * cell[1] + len(sections) * (LINE + GAP) + GAP)
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    top = GAP
    for (title, section), count in zip(sections.items(), rows, strict=True):
        pen.text((GAP, top), title, fill="black", font=font)
        top += LINE + GAP // 2
        for index, (image, caption) in enumerate(section):
            x, y = GAP + index % columns * cell[0], top + index // columns * cell[1]
            picture.paste(enlarged(image, scale), (x, y))
            pen.text(
                (x, y + height * scale),
                _fitted(caption, pen, font, cell[0] - GAP),
                fill="#555",
                font=font,
            )
        top += count * cell[1] + GAP // 2
    return picture


def _scale(image):
    return max(1, -(-CELL // min(image.shape[:2])))


def _fitted(caption, pen, font, width):
    while caption and pen.textlength(caption, font=font) > width:
        caption = caption[:-1] if not caption.endswith("…") else caption[:-2].rstrip()
        caption += "…"
    return caption


def strip(images: np.ndarray) -> Image.Image:
    """uint8 [N, H, W, C] side by side, enlarged."""
    return enlarged(np.concatenate(images, axis=1), _scale(images[0]))


def enlarged(image: np.ndarray, scale: int | None = None) -> Image.Image:
    """uint8 [H, W, C] as a picture whose shorter side is at least CELL pixels."""
    picture = picture_of(image)
    scale = scale or _scale(image)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def picture_of(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] -> RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")


def beside(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """(title, picture) of each, from left to right."""
    width = sum(picture.width + GAP for _, picture in pictures) + GAP
    height = max(picture.height for _, picture in pictures) + LINE + 2 * GAP
    whole, left = Image.new("RGB", (width, height), "white"), GAP
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(11)
    for title, picture in pictures:
        pen.text((left + GAP, GAP), title, fill="black", font=font)
        whole.paste(picture, (left, LINE + GAP))
        left += picture.width + GAP
    return whole


def read_picture(path: str) -> Image.Image:
    """Raises UserError where it cannot be read."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return Image.open(io.BytesIO(file.read())).convert("RGB")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def save_picture(picture: Image.Image, path: str, frames: Sequence[Image.Image] = ()) -> None:
    """Writes a PNG or, where `path` ends so, a GIF of the picture and the frames after it, that
    plays forever. The file gets its name only when it is whole.

    Raises:
      UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    if path.lower().endswith(".gif"):
        picture.save(buffer, "GIF", save_all=True, append_images=list(frames), duration=80, loop=0)
    else:
        picture.save(buffer, "PNG")
    folder = path.rpartition("/")[0]
    try:
        if folder:
            tf.io.gfile.makedirs(folder)
        files.write(path, buffer.getvalue())
    except tf.errors.OpError as error:
        raise UserError(f"cannot write {path}: {files.refusal(path, error)}") from error
