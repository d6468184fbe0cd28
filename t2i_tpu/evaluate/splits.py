"""Collects the data of an evaluation: the real and drawn images of each split, and their features."""

import dataclasses
import os

import numpy as np
from absl import logging

from t2i_tpu.data.reader import Dataset
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.checks import check_images
from t2i_tpu.evaluate.extractors.extractor import Extractor
from t2i_tpu.evaluate.features import extract_features, load_real_features
from t2i_tpu.evaluate.images import RealImages, draw_images, read_images
from t2i_tpu.sample.trained import TrainedModel

_NAMES = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of images that an evaluation reads and draws.

    Attributes:
      num_images: the number of images that are drawn for each split and set. It is smaller for a split
        with fewer examples.
      num_sets: the number of sets of images. The sets have the same prompts but different seeds, and
        the spread of a figure is its standard deviation over them.
      max_real: the maximum number of real images that are read from a split.
    """

    num_images: int = 250
    num_sets: int = 3
    max_real: int = 50_000

    def get_seeds(self, number: int, count: int) -> np.ndarray:
        """Return the seeds of the first `count` images of a set."""
        return np.arange(count) + number * self.num_images


@dataclasses.dataclass(frozen=True)
class Split:
    """The real and drawn images of a split.

    Attributes:
      real: the real images.
      real_features: their features, float32 [N, dim].
      rows: int [M], the positions of real images, chosen at random but the same in each evaluation.
        Images are drawn for the conditions of these real images.
      drawn: the drawn images of each set, uint8 [M, H, W, C].
      features: their features, float32 [M, dim].
      own_images: whether the images were drawn for the conditions of `rows`. If the conditions are
        classes, the images drawn for the training split are used for both splits.
    """

    real: RealImages
    real_features: np.ndarray
    rows: np.ndarray
    drawn: list[np.ndarray]
    features: list[np.ndarray]
    own_images: bool = True

    @property
    def captions(self) -> list[str]:
        """The captions of the drawn images of a set."""
        return [self.real.captions[row] for row in self.rows]


def collect_splits(
    model: TrainedModel, dataset: Dataset, extractor: Extractor, settings: Settings, folder: str
) -> dict[str, Split]:
    """Read the real images of each split, draw images for their conditions, and extract features.

    Args:
      model: draws the images.
      dataset: the data set that the model was trained on.
      extractor: extracts the features.
      settings: how many images to read and draw.
      folder: a local folder for the images.

    Raises:
      UserError: the data set cannot be read, or the model draws nothing that can be measured.
    """
    splits: dict[str, Split] = {}
    for name in _NAMES:
        if name not in dataset.manifest.splits:
            continue
        logging.info("reading the %s images", name)
        real = read_images(dataset, name, settings.max_real, folder)
        real_features = load_real_features(extractor, real.images, name)
        rows, drawn, features = real.choose(settings.num_images), [], []
        if splits and "label" in real.conditions:
            train = splits["train"]
            splits[name] = Split(
                real, real_features, rows, train.drawn, train.features, own_images=False
            )
            continue
        conditions = real.get_conditions(rows)
        for number in range(settings.num_sets):
            text = f"set {number + 1} of {settings.num_sets}, {name}"
            logging.info("drawing %d images (%s)", len(rows), text)
            prefix = os.path.join(folder, f"{name}_{number}")
            seeds = settings.get_seeds(number, len(rows))
            images = draw_images(model.generator, conditions, seeds, f"{prefix}.npy", text)
            check_images(images, f"drawn {name} images")
            drawn.append(images)
            features.append(
                extract_features(
                    extractor, images, f"{prefix}_features.npy", f"drawn images, {text}"
                )
            )
        splits[name] = Split(real, real_features, rows, drawn, features)
    if not splits:
        raise UserError(
            f"{dataset.folder} has neither a train nor a heldout split to compare with; add one"
        )
    return splits
