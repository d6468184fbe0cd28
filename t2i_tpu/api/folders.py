"""Draws any number of images into a folder. After an interruption, it draws only the missing images."""

from collections.abc import Iterator

from t2i_tpu.api import drawing_records
from t2i_tpu.api.model import Model
from t2i_tpu.api.prompt_rows import DrawingList
from t2i_tpu.api.requests import parse_drawing
from t2i_tpu.sample.image_folder import ImageFolder


def find_complete(
    model: Model, drawings: DrawingList, folder: ImageFolder, ending: str
) -> set[str]:
    """Return the names of the files of drawings that an earlier run has completed.

    Raises:
      UserError: the folder cannot be used; see `ImageFolder.find_complete`.
    """
    settings, trained = model.config.sample, model.trained

    def list_records() -> Iterator[tuple[str, dict]]:
        for name, drawing in drawings.list_files(ending):
            parsed = parse_drawing(drawing, settings, trained)
            (record,) = drawing_records.make_records(
                drawing_records.SAMPLE, [parsed], settings, trained
            )
            yield name, record

    return folder.find_complete(list_records())


def draw_missing(
    model: Model, drawings: DrawingList, folder: ImageFolder, ending: str, complete: set[str]
) -> Iterator[int]:
    """Draw the images whose files are not complete, and write each as soon as it is drawn.

    Args:
      model: the model, which draws with its own settings.
      drawings: the images.
      folder: the folder.
      ending: the ending of the files, such as ".png".
      complete: the names of files to leave out.

    Yields:
      The number of images that have been drawn since the previous yield.
    """

    def list_missing(position: int) -> Iterator:
        for item in drawings.list_files(ending):
            if item[0] not in complete:
                yield item[position]

    names = list_missing(0)
    for images in model.draw(list_missing(1)):
        for image, record in zip(images, images.records, strict=True):
            folder.write(next(names), image, record)
        yield len(images)
