"""Reads and draws the images of an evaluation into memory-mapped files.

The memory that an evaluation needs does not grow with the number of images.
"""

import dataclasses
import errno
import os
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from t2i_tpu.data.read_errors import translate_data_errors
from t2i_tpu.data.reader import Dataset
from t2i_tpu.sample.generator import Generator


@dataclasses.dataclass(frozen=True)
class RealImages:
    """Examples of a split.

    Attributes:
      images: uint8 [N, H, W, C].
      conditions: the conditions of the examples.
      captions, keys: their captions and keys.
    """

    images: np.ndarray
    conditions: dict[str, np.ndarray]
    captions: list[str]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def choose(self, count: int) -> np.ndarray:
        """Return the positions of at most `count` examples, chosen at random but always the same."""
        order = np.random.default_rng(0).permutation(len(self))
        return np.sort(order[:count])

    def get_conditions(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the conditions of the examples at the positions `rows`."""
        return {name: values[rows] for name, values in self.conditions.items()}


def read_images(dataset: Dataset, split: str, limit: int, folder: str) -> RealImages:
    """Read the examples of a split into files.

    Args:
      dataset: the data set.
      split: the name of the split.
      limit: the maximum number of examples; see `Dataset.iter_examples`.
      folder: the folder of the files.
    """
    count = min(limit, dataset.manifest.num_examples(split))
    arrays, captions, keys = {}, [], []
    examples = dataset.iter_examples(split, limit)
    progress = tqdm(examples, f"reading {split}", count, unit=" images", disable=None)
    with translate_data_errors(dataset):
        for row, example in enumerate(progress):
            values = {"image": example["image"]} | example["condition"]
            for name, value in values.items():
                if name not in arrays:
                    path = os.path.join(folder, f"{split}_{name}.npy")
                    arrays[name] = create_array(path, (count, *value.shape), value.dtype)
                arrays[name][row] = value
            captions.append(example["caption"])
            keys.append(example["key"])
    # With on_damage=skip, a shard may give fewer examples than the manifest says.
    arrays = {name: array[: len(keys)] for name, array in arrays.items()}
    return RealImages(arrays.pop("image"), arrays, captions, keys)


def draw_images(
    generator: Generator,
    conditions: dict[str, np.ndarray],
    seeds: Sequence[int],
    path: str,
    description: str,
) -> np.ndarray:
    """Draw one image for each condition into a file.

    Args:
      generator: draws the images.
      conditions: a batch of N conditions.
      seeds: the seed of each image.
      path: the file.
      description: the text of the progress bar.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      UserError: the model draws infinite or NaN values.
    """
    count, size = len(seeds), generator.batch_size
    images = create_array(path, (count, *generator.denoiser.image_shape), np.uint8)
    with tqdm(total=count, desc=description, unit=" images", disable=None) as progress:
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            batch = {name: values[rows] for name, values in conditions.items()}
            images[rows] = generator.draw(batch, np.asarray(seeds)[rows])
            progress.update(len(rows))
    return images


def create_array(path: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Create a memory-mapped .npy file.

    Raises:
      OSError: the disk is full. Without the allocation, this would kill the process at a later write.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # macOS does not have it
        try:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            # Otherwise, the file system cannot allocate, which is no reason to stop.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, error.strerror, path) from error
    return array
