"""Extracts the features of images into memory-mapped files, and caches those of real images."""

import hashlib
import os

import numpy as np
from tqdm import tqdm

from t2i_tpu.evaluate.checks import check_features
from t2i_tpu.evaluate.extractors.extractor import Extractor
from t2i_tpu.evaluate.images import create_array
from t2i_tpu.storage.cache import get_cache_folder

_BATCH_SIZE = 512  # bounds the memory that images take


def extract_features(
    extractor: Extractor, images: np.ndarray, path: str, description: str
) -> np.ndarray:
    """Extract the features of images into a file.

    Args:
      extractor: extracts the features.
      images: uint8 [N, H, W, C].
      path: the file.
      description: description of the images for the progress bar and for errors.

    Returns:
      float32 [N, dim].

    Raises:
      UserError: a feature is not finite, or all images have the same features.
    """
    features = create_array(path, (len(images), extractor.dim), np.float32)
    with tqdm(
        total=len(images), desc=f"features of {description}", unit=" images", disable=None
    ) as progress:
        for start in range(0, len(images), _BATCH_SIZE):
            batch = images[start : start + _BATCH_SIZE]
            features[start : start + len(batch)] = extractor.extract(batch)
            progress.update(len(batch))
    check_features(features, description)
    return features


def load_real_features(extractor: Extractor, images: np.ndarray, split: str) -> np.ndarray:
    """Return the features of a split's real images, from the cache if it contains them.

    A hash of the images identifies them, because a data set gives other images with another size or
    limit, or if damaged records are skipped.

    Args:
      extractor: extracts the features.
      images: the split's images, uint8 [N, H, W, C].
      split: the name of the split, for messages.

    Returns:
      float32 [N, dim].
    """
    folder = os.path.join(get_cache_folder(), "features")
    # Another version of the package, or another model with these weights, may compute other features.
    # Rounding errors do not matter.
    probe = np.round(extractor.extract(images[:1]), 2).tolist()
    names = extractor.extractor_id, extractor.weights_sha256, extractor.resize
    identity = (*names, probe, images.shape, _hash_images(images))
    name = hashlib.sha256(repr(identity).encode()).hexdigest()
    path = os.path.join(folder, f"{name}.npy")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        partial = f"{path}.{os.getpid()}.partial"
        try:
            extract_features(extractor, images, partial, f"real images, {split}").flush()
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.remove(partial)
    return np.load(path, mmap_mode="r")


def _hash_images(images: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), _BATCH_SIZE):
        digest.update(np.ascontiguousarray(images[start : start + _BATCH_SIZE]))
    return digest.hexdigest()
