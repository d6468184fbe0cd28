"""Draws captioned grids and strips of images. This module does not need TensorFlow."""

import bisect
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from t2i_tpu.sample import text

COLUMNS = 8
# Maximum number of images in a grid that a user asks for.
MAX_CELLS = 4096
# Images are enlarged until their shorter side has at least this many pixels.
CELL = 64
GAP, LINE = 8, 14
# Minimum width of a grid, with room for a title over a single image.
MIN_WIDTH = 4 * (CELL + GAP) + GAP
# A title, and the cells below it, each an image, uint8 [H, W, C], and its caption.
Section = tuple[str, list[tuple[np.ndarray, str]]]


def draw_grid(sections: Sequence[Section], columns: int = COLUMNS) -> Image.Image:
    """Draw sections below each other on white, each under its title.

    Titles are wrapped. A caption is one line under its image and is cut if it is longer.
    """
    first = next(image for _, cells in sections for image, _ in cells)
    height, width, _ = first.shape
    scale = _scale(height, width)
    cell = (width * scale + GAP, height * scale + GAP + LINE)
    columns = min(columns, max(len(cells) for _, cells in sections))
    size = measure_grid([(title, len(cells)) for title, cells in sections], height, width, columns)
    picture = Image.new("RGB", size, "white")
    # Draw each title and its cells.
    pen, top = ImageDraw.Draw(picture), GAP
    for title, cells in sections:
        for line in _wrap(title, size[0] - 2 * GAP):
            text.draw(pen, (GAP, top), line, "black")
            top += LINE
        top += GAP // 2
        for index, (image, caption) in enumerate(cells):
            x, y = GAP + index % columns * cell[0], top + index // columns * cell[1]
            picture.paste(enlarge(image, scale), (x, y))
            caption = _shorten(caption, cell[0] - GAP)
            text.draw(pen, (x, y + height * scale), caption, "#555")
        top += -(-len(cells) // columns) * cell[1] + GAP // 2
    return picture


def measure_grid(
    sections: Sequence[tuple[str, int]], height: int, width: int, columns: int = COLUMNS
) -> tuple[int, int]:
    """Return the width and height in pixels of the grid that `draw_grid` draws.

    Args:
      sections: the title and the number of images of each section.
      height, width: the size of the images.
      columns: the maximum number of images side by side.
    """
    scale, columns = _scale(height, width), min(columns, max(count for _, count in sections))
    total_width = max(columns * (width * scale + GAP) + GAP, MIN_WIDTH)
    lines = sum(len(_wrap(title, total_width - 2 * GAP)) for title, _ in sections)
    rows = sum(-(-count // columns) for _, count in sections)
    total_height = rows * (height * scale + GAP + LINE) + lines * LINE + (len(sections) + 1) * GAP
    return total_width, total_height


def _scale(height, width):
    """Return the factor that enlarges an image's shorter side to at least CELL pixels."""
    return max(1, -(-CELL // min(height, width)))


def _shorten(line, width):
    """Cut a line of text to at most `width` pixels, with an ellipsis if anything is cut."""
    count = _count_fitting(line, width)
    if count == len(line):
        return line
    return line[: _count_fitting(line, width - text.measure("…"))].rstrip() + "…"


def _wrap(title, width):
    """Break text at spaces into lines of at most `width` pixels, and split words that are longer."""
    lines, line = [], ""
    for word in title.split():
        if line and text.measure(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".lstrip()
        while (end := max(1, _count_fitting(line, width))) < len(line):
            lines.append(line[:end])
            line = line[end:]
    return [*lines, line]


def _count_fitting(line, width):
    """Return how many of the first characters of a line fit into `width` pixels."""
    limit = 16
    while limit < len(line) and text.measure(line[:limit]) <= width:
        limit *= 2
    counts = range(1, min(limit, len(line)) + 1)
    return bisect.bisect_right(counts, width, key=lambda count: text.measure(line[:count]))


def draw_strip(images: np.ndarray) -> Image.Image:
    """Draw images, uint8 [N, H, W, C], side by side and enlarged."""
    return enlarge(np.concatenate(images, axis=1), _scale(*images[0].shape[:2]))


def enlarge(image: np.ndarray, scale: int | None = None) -> Image.Image:
    """Return an image, uint8 [H, W, C], as an enlarged picture.

    Args:
      image: the image.
      scale: an integer factor. By default, the shorter side gets at least CELL pixels.
    """
    picture = to_picture(image)
    scale = scale or _scale(*image.shape[:2])
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def to_picture(image: np.ndarray) -> Image.Image:
    """Convert an image, uint8 [H, W, 1 or 3], to an RGB picture."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")


def join_pictures(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Join pictures, given as (title, picture), from left to right under their titles."""
    width = sum(picture.width + GAP for _, picture in pictures) + GAP
    height = max(picture.height for _, picture in pictures) + LINE + 2 * GAP
    joined, left = Image.new("RGB", (width, height), "white"), GAP
    pen = ImageDraw.Draw(joined)
    for title, picture in pictures:
        text.draw(pen, (left + GAP, GAP), title, "black")
        joined.paste(picture, (left, LINE + GAP))
        left += picture.width + GAP
    return joined
