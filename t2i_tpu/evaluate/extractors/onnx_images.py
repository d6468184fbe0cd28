"""Extracts features with a CLIP in ONNX, without torch."""

import os

import numpy as np

from t2i_tpu.evaluate.extractors.clip_images import ClipImages
from t2i_tpu.evaluate.extractors.image_graph import ImageGraph
from t2i_tpu.text import EMBEDDED_CLIP, EmbeddedEncoder
from t2i_tpu.text.onnx_tower import OnnxEncoder

GRAPH_NAME = "image_tower.onnx"


class OnnxImages(ClipImages):
    """A CLIP whose two towers are in ONNX. See `Extractor`.

    Args:
      folder: a local folder with GRAPH_NAME and its weights. Only the constructor reads it.
      encoder: the text tower of the same CLIP.
    """

    def __init__(self, folder: str, encoder: OnnxEncoder):
        super().__init__(encoder)
        self._graph = ImageGraph(os.path.join(folder, GRAPH_NAME))
        self.resize = self._graph.resize

    def extract(self, images: np.ndarray) -> np.ndarray:
        return self.scale(self._graph.run(images))


class EmbeddedImages(OnnxImages):
    """The small CLIP that ships with the package."""

    def __init__(self, folder: str = EMBEDDED_CLIP):
        super().__init__(folder, EmbeddedEncoder(folder))
