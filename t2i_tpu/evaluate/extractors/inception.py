"""Extracts features with the Inception v3 that defines FID, as implemented by torch-fidelity."""

import os
import re
from collections.abc import Sequence

import numpy as np

from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.evaluate.extractors.extractor import ReadsNoText, check_images, iter_batches
from t2i_tpu.storage import files
from t2i_tpu.text.open_clip_tower import avoid_triton, choose_device

PREFIX = "inception:"
_BATCH_SIZE = 32
_OUTPUT = "2048"  # torch-fidelity's name for the values after the last pooling
_SOURCE = (
    "get weights-inception-2015-12-05-6726825d.pth from the releases of torch-fidelity on GitHub "
    "(toshas/torch-fidelity, v0.2.0)"
)


class InceptionImages(ReadsNoText):
    """The Inception v3 of the original FID, in torch-fidelity's implementation. See `Extractor`.

    Args:
      path: a file of weights for it.

    Raises:
      UserError: torch-fidelity is not installed, there is no such file, the hash in its name is not that
        of its content, or it does not contain these weights.
    """

    resize = "299x299, bilinear as in TensorFlow 1 (torch-fidelity)"
    dim = 2048
    class_names = ()

    def __init__(self, path: str):
        self.extractor_id = f"{PREFIX}{path}"
        avoid_triton()
        try:
            import torch
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError(
                f"extractor {self.extractor_id!r} needs torch-fidelity; pip install torch-fidelity"
            ) from None
        if not os.path.isfile(path):
            raise UserError(f"extractor {self.extractor_id!r}: no file {path!r}; {_SOURCE}")
        self.weights_sha256 = files.measure(path)[1]
        _check_hash_in_name(path, self.weights_sha256)
        self._device = choose_device()
        try:
            # torch-fidelity would run code in the file, so first reject a file that contains code.
            torch.load(path, weights_only=True, mmap=True, map_location="cpu")
            network = FeatureExtractorInceptionV3("inception", [_OUTPUT], path)
        except Exception as error:  # torch raises many classes of errors
            raise UserError(
                f"{path} does not contain the weights of Inception: {get_first_line(error)}; {_SOURCE}"
            ) from error
        self._network = network.to(self._device)

    def extract(self, images: np.ndarray) -> np.ndarray:
        import torch

        check_images(images)
        parts = [np.zeros((0, self.dim), np.float32)]
        for batch in iter_batches(images, _BATCH_SIZE):
            rgb = np.broadcast_to(batch, (*batch.shape[:3], 3)).transpose(0, 3, 1, 2)
            pixels = torch.from_numpy(np.ascontiguousarray(rgb)).to(self._device)
            with torch.inference_mode():
                (features,) = self._network(pixels)
            parts.append(features.cpu().numpy())
        return np.concatenate(parts)

    def classify(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        raise UserError(
            f"extractor {self.extractor_id!r} knows no classes; choose 'embedded' or a model of open_clip"
        )


def _check_hash_in_name(path: str, sha256: str) -> None:
    """Raise UserError if the name ends in digits of a hash, as torch.hub's do, but not of this one."""
    match = re.search(r"-([0-9a-f]{8,})\.\w+$", os.path.basename(path))
    if match and not sha256.startswith(match[1]):
        raise UserError(
            f"{path} has the SHA-256 {sha256[:8]}..., but its name says {match[1]}; the file is damaged, so "
            f"{_SOURCE}"
        )
