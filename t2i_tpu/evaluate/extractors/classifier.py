"""The classifier of Fashion MNIST that ships with the package. It needs no torch."""

import json
import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.extractor import ReadsNoText, check_images
from t2i_tpu.evaluate.extractors.image_graph import ImageGraph
from t2i_tpu.storage import files

# The files of a classifier. tools/train_classifier.py writes them.
FEATURES_NAME = "features.onnx"
LOGITS_NAME = "logits.onnx"
WEIGHTS_NAME = "classifier.safetensors"
CLASS_NAMES = "class_names"  # key of the metadata of LOGITS_NAME: the names in JSON

FASHION_MNIST = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "embedded", "fashion_mnist"
)


class Classifier(ReadsNoText):
    """A convolutional network, whose features are the values before its last layer.

    See `Extractor`.

    Args:
      folder: a local folder with the files of a classifier. Only the constructor reads it.
      extractor_id: the attribute of that name.
    """

    def __init__(self, folder: str = FASHION_MNIST, extractor_id: str = "fashion_mnist"):
        self.extractor_id = extractor_id
        self.weights_sha256 = files.measure(os.path.join(folder, WEIGHTS_NAME))[1]
        self._features = ImageGraph(os.path.join(folder, FEATURES_NAME))
        self.resize, self.dim = self._features.resize, self._features.dim
        self._logits = onnxruntime.InferenceSession(
            os.path.join(folder, LOGITS_NAME), providers=["CPUExecutionProvider"]
        )
        names = self._logits.get_modelmeta().custom_metadata_map[CLASS_NAMES]
        self.class_names = tuple(json.loads(names))

    def extract(self, images: np.ndarray) -> np.ndarray:
        check_images(images)
        if images.shape[3] != self._features.channels:
            raise UserError(
                f"extractor {self.extractor_id!r} reads gray images, but these are RGB; choose another "
                "extractor"
            )
        return self._features.run(images)

    def classify(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Return the most likely of the given classes, which must be some of `class_names`."""
        unknown = [name for name in class_names if name not in self.class_names]
        if unknown:
            raise UserError(
                f"extractor {self.extractor_id!r} does not know class {unknown[0]!r}, only "
                f"{', '.join(self.class_names)}; choose 'embedded' or a model of open_clip"
            )
        (logits,) = self._logits.run(None, {"features": features})
        return logits[:, [self.class_names.index(name) for name in class_names]].argmax(1)
