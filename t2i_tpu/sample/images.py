"""Drawn images with the records of how they were drawn. This module does not import TensorFlow."""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from t2i_tpu.errors import UserError
from t2i_tpu.sample import animations, picture_files, pictures
from t2i_tpu.sample.records import describe_image, describe_prompt
from t2i_tpu.storage import paths

LAYOUTS = ("grid", "strip")
# A notebook shows at most this many images, and shows animations with at least this height in pixels.
_MAX_SHOWN = 64
_SHOWN_SIDE = 192


class Images:
    """Drawn images.

    Attributes:
      array: the images, uint8 [N, H, W, C] with C = 1 or 3.
      records: for each image, a dict that JSON can represent, with everything needed to draw it again.
      is_animation: whether the images are frames that follow each other, as in an interpolation.
    """

    def __init__(self, array: np.ndarray, records: Sequence[dict], is_animation: bool = False):
        array = np.asarray(array)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3):
            raise ValueError(f"expected images, uint8 [N, H, W, 1 or 3], not {describe(array)}")
        if len(array) != len(records):
            raise ValueError(f"{len(array)} images need as many records, not {len(records)}")
        self.array, self.records, self.is_animation = array, list(records), is_animation

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.array)

    def __getitem__(self, index):
        """Return one image, uint8 [H, W, C], or the images of a slice or of a list of indices."""
        if isinstance(index, int | np.integer):
            return self.array[index]
        chosen = np.arange(len(self))[index]
        return Images(self.array[chosen], [self.records[i] for i in chosen], self.is_animation)

    def __add__(self, other: "Images") -> "Images":
        if not isinstance(other, Images):
            return NotImplemented
        if self.array.shape[1:] != other.array.shape[1:]:
            raise UserError(
                f"cannot join images of {_describe_size(self.array)} and {_describe_size(other.array)}"
            )
        return join_images([self, other])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.array, dtype) if copy else np.asarray(self.array, dtype)

    def __repr__(self) -> str:
        noun = "frame" if self.is_animation else "image"
        return (
            f"<{len(self)} {noun}{'' if len(self) == 1 else 's'} of {_describe_size(self.array)}>"
        )

    def to_pil(self) -> list[Image.Image]:
        """Return the images as PIL pictures in their own size."""
        return [pictures.to_picture(image) for image in self.array]

    def grid(self, columns: int = pictures.COLUMNS) -> Image.Image:
        """Return a picture with a section of captioned images for each prompt."""
        self._check_not_empty()
        if columns < 1:
            raise UserError(f"columns={columns}: it must be at least 1")
        return pictures.draw_grid(_make_sections(self), columns)

    def strip(self) -> Image.Image:
        """Return a picture of all images side by side."""
        self._check_not_empty()
        return pictures.draw_strip(self.array)

    def save(
        self,
        path: str | os.PathLike,
        layout: str | None = None,
        columns: int = pictures.COLUMNS,
        frames_per_second: float = animations.FRAMES_PER_SECOND,
        boomerang: bool | None = None,
    ) -> None:
        """Write the images. Missing folders are created, and each file appears only when it is complete.

        The file's metadata holds the records; see `read_records`.

        Args:
          path: a local path, which may start with ~, or gs://bucket/path. Its ending decides what is
            written: .png, .jpg, .jpeg or .webp is one picture, .gif or .mp4 (or .webp, for frames) is an
            animation, and any other path is a folder of .png files in the images' own size.
          layout: how a picture shows the images. "grid" has a section of captioned images for each
            prompt, and "strip" has all images side by side. The default is "strip" for frames and "grid"
            for other images, except that a single image is written as it is, in its own size.
          columns: the number of columns of a grid.
          frames_per_second: the speed of an animation.
          boomerang: whether an animation runs forward and back. The default is True for frames.

        Raises:
          UserError: an argument is not valid, a file at the path was not written by t2i_tpu, or the path
            cannot be written.
        """
        from t2i_tpu.storage import outputs

        path = paths.parse_path(os.fspath(path), "", is_output=True)
        self._check_not_empty()
        ending = check_ending(path)
        if layout not in (None, *LAYOUTS):
            raise UserError(f"layout={layout!r}: it must be one of {', '.join(LAYOUTS)}")
        if not ending:
            self._save_folder(path)
            return
        outputs.check_file(path, "")
        is_animated = ending in (".gif", ".mp4") or (
            ending == ".webp" and self.is_animation and layout is None
        )
        if is_animated:
            back = self.is_animation if boomerang is None else boomerang
            frames = animations.make_boomerang(self.array) if back else self.array
            content = animations.encode_animation(frames, ending, frames_per_second, self.records)
        else:
            picture = self._draw(layout, columns)
            content = picture_files.encode_picture(picture, ending, self.records)
        outputs.write_file(path, content)

    def _draw(self, layout: str | None, columns: int) -> Image.Image:
        """Return the picture that `save` writes."""
        if len(self) > pictures.MAX_CELLS:
            raise UserError(
                f"one picture has room for {pictures.MAX_CELLS} images, not for {len(self)}; save them into "
                "a folder, which has no limit"
            )
        if layout is None and len(self) == 1:
            return pictures.to_picture(self.array[0])
        if layout == "strip" or (layout is None and self.is_animation):
            return self.strip()
        return self.grid(columns)

    def _save_folder(self, path: str) -> None:
        from t2i_tpu.sample.image_folder import ImageFolder, name_files
        from t2i_tpu.storage import outputs

        names = name_files(self.records)
        outputs.check_files(path, set(names).__contains__, "")
        with ImageFolder(path) as folder:
            for name, image, record in zip(names, self.array, self.records, strict=True):
                folder.write(name, image, record)

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows, which is a grid of the first images."""
        if not len(self):
            return None
        sections = _make_sections(self[:_MAX_SHOWN])
        if len(self) > _MAX_SHOWN:
            sections.append((f"and {len(self) - _MAX_SHOWN} more", []))
        return picture_files.encode_picture(pictures.draw_grid(sections), ".png")

    def _repr_html_(self) -> str | None:
        """Return an animation for a notebook if the images are frames."""
        if not (self.is_animation and len(self)):
            return None
        frames = animations.make_boomerang(self.array)
        content = base64.b64encode(animations.encode_animation(frames, ".gif")).decode()
        side = f"{max(_SHOWN_SIDE, *self.array.shape[1:3])}px"
        style = f"height:{side};image-rendering:pixelated"
        return f'<img style="{style}" src="data:image/gif;base64,{content}">'

    def _check_not_empty(self) -> None:
        if not len(self):
            raise UserError("there are no images to show or to save")


def join_images(parts: Iterable[Images]) -> Images:
    """Return the images of all parts. Unlike a sum, this copies each image once."""
    parts = list(parts)
    records = [record for part in parts for record in part.records]
    is_animation = all(part.is_animation for part in parts)
    return Images(np.concatenate([part.array for part in parts]), records, is_animation)


def check_ending(path: str) -> str:
    """Return the ending of a picture or animation, such as ".png", or "" if the path is a folder.

    Raises:
      UserError: the format of the ending is not supported.
    """
    ending = picture_files.get_ending(path)
    if ending in picture_files.PICTURES or ending in animations.ENDINGS:
        return ending
    if is_picture_ending(ending):
        known = ", ".join(dict.fromkeys([*picture_files.PICTURES, *animations.ENDINGS]))
        raise UserError(f"{path}: {ending} is not supported; use {known} or a folder")
    return ""


def is_picture_ending(ending: str) -> bool:
    """Return whether pictures or videos of any program have an ending, such as ".bmp"."""
    others = (".avi", ".mkv", ".mov", ".mp4", ".webm", ".svg", ".apng", ".avif", ".heic", ".jxl")
    return ending in others or ending in Image.registered_extensions()


def check_grid(path: str, sections: Sequence[tuple[str, int]], height: int, width: int) -> None:
    """Check, before images are drawn, that a picture has room for a grid of them.

    Args:
      path: the path of the picture, with an ending in picture_files.PICTURES.
      sections: the title and the number of images of each section.
      height, width: the size of the images.

    Raises:
      UserError: the grid is too large for the picture's format.
    """
    size = pictures.measure_grid(sections, height, width)
    picture_files.check_size(size, picture_files.get_ending(path))


def _make_sections(images: Images) -> list[pictures.Section]:
    """Return a section for each run of images with the same prompt, below one for the model."""
    sections: list[pictures.Section] = []
    models = {_describe_model(record) for record in images.records} - {""}
    if len(models) == 1:
        sections.append((models.pop(), []))
    previous = None
    for image, record in zip(images.array, images.records, strict=True):
        prompt = describe_prompt(record)
        if prompt != previous:
            sections.append((prompt, []))
            previous = prompt
        sections[-1][1].append((image, describe_image(record)))
    return sections


def _describe_model(record: dict) -> str:
    if "workdir" not in record:
        return ""
    return f"{record['workdir']}, step {record['step']}" if "step" in record else record["workdir"]


def _describe_size(array: np.ndarray) -> str:
    """Return the size of images in words, such as "32x32 pixels"."""
    suffix = " in gray" if array.shape[3] == 1 else ""
    return f"{array.shape[2]}x{array.shape[1]} pixels{suffix}"


def describe(array: np.ndarray) -> str:
    """Return the type and shape of an array in words, such as "float32 [4, 32, 32, 3]"."""
    return f"{array.dtype} {list(array.shape)}"
