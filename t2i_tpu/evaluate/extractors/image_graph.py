"""Runs ONNX graphs from images to features with onnxruntime."""

import numpy as np
import onnxruntime
from PIL import Image

from t2i_tpu.evaluate.extractors.extractor import check_images, iter_batches

# Key of the graph's metadata that says how to resize images, with a name of Image.Resampling.
RESAMPLE = "resample"


class ImageGraph:
    """A graph with the input images, uint8 [N, height, width, channels], and one output, float32 [N, dim].

    The graph normalizes the pixels, and its metadata says how images must be resized.

    Args:
      path: the graph, a local file. Only the constructor reads it.

    Attributes:
      dim: number of values in the output.
      channels: number of channels of the images.
      resize: in words, how images are resized.
    """

    def __init__(self, path: str):
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (images,), (output,) = self._session.get_inputs(), self._session.get_outputs()
        _, height, width, self.channels = images.shape
        self._size = (width, height)
        self.dim = output.shape[1]
        resample = self._session.get_modelmeta().custom_metadata_map[RESAMPLE]
        self._resample = Image.Resampling[resample]
        self.resize = f"{width}x{height}, {resample.lower()} (Pillow)"

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the output for images of any size, uint8 [N, size, size, 1 or 3].

        Gray images become RGB if the graph reads RGB.

        Raises:
          UserError: the images have another shape or dtype, or are not square.
        """
        check_images(images)
        parts = [np.zeros((0, self.dim), np.float32)]
        for batch in iter_batches(images):
            resized = np.stack([self._resize(image) for image in batch])
            if self.channels > resized.shape[3]:
                resized = np.repeat(resized, self.channels, axis=3)
            parts.append(self._session.run(None, {"images": resized})[0])
        return np.concatenate(parts)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        """Resize an image, [H, W, C]. Pillow averages pixels when it shrinks an image."""
        if image.shape[1::-1] == self._size:
            return image
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(picture.resize(self._size, self._resample))
        return resized.reshape(*resized.shape[:2], image.shape[2])
