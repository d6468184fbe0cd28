"""The interface of extractors, and code that several of them share."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from t2i_tpu.errors import UserError

BATCH_SIZE = 256  # bounds the memory of an extractor


class Extractor(Protocol):
    """Turns images into features, vectors whose distances say how similar the images look.

    Attributes:
      extractor_id: the argument of `make_extractor`, such as "embedded".
      weights_sha256: hash of the file that contains the weights.
      resize: in words, how images are resized, such as "32x32, bicubic (Pillow)".
      dim: number of values in the features of an image.
      reads_text: whether `encode_texts` works.
      class_names: the classes that `classify` knows: () if it knows none, and None if it knows any
        class by its name.
    """

    extractor_id: str
    weights_sha256: str
    resize: str
    dim: int
    reads_text: bool
    class_names: tuple[str, ...] | None

    def extract(self, images: np.ndarray) -> np.ndarray:
        """Return the features of images, float32 [N, dim].

        The mean square of a feature is around 1. Images are read in batches, so `images` may be a
        memory-mapped file of any length. The features of an image do not depend on the other images,
        except for rounding.

        Args:
          images: uint8 [N, size, size, 1 or 3].

        Raises:
          UserError: the images have another shape or dtype, or the extractor reads only gray images.
        """

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the features of texts, float32 [N, dim] with norm 1.

        The larger their product with the features of an image, the better text and image agree. Texts
        that are too long are truncated.

        Raises:
          UserError: the extractor reads no text.
        """

    def classify(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Return the most likely class of each image, int64 [N], as an index into `class_names`.

        Args:
          features: the features of the images, float32 [N, dim].
          class_names: the names of the classes.

        Raises:
          UserError: the extractor does not know one of these classes.
        """


def knows_classes(extractor: Extractor, class_names: Sequence[str]) -> bool:
    """Return whether `Extractor.classify` works for these classes."""
    known = extractor.class_names
    return known is None or set(class_names) <= set(known)


class ReadsNoText:
    """Implements the parts of `Extractor` for extractors that read no text."""

    extractor_id: str
    reads_text = False

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        raise UserError(
            f"extractor {self.extractor_id!r} reads no text; choose 'embedded' or a model of open_clip"
        )


def check_images(images: np.ndarray) -> None:
    """Raise UserError unless images are uint8 [N, size, size, 1 or 3]."""
    shape = images.shape
    is_square = len(shape) == 4 and shape[1] == shape[2] > 0 and shape[3] in (1, 3)
    if images.dtype != np.uint8 or not is_square:
        raise UserError(
            f"cannot extract features from {images.dtype} images of shape {shape}; pass square images, "
            "uint8 [N, size, size, 1 or 3]"
        )


def iter_batches(images: np.ndarray, batch_size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Yield images in parts of at most `batch_size`, each in memory."""
    for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])
