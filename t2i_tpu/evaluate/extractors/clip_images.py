"""Code that all CLIPs share. Their features of images and of texts can be compared."""

from collections.abc import Sequence

import numpy as np

from t2i_tpu.text import TextEncoder


class ClipImages:
    """Implements the parts of `Extractor` that use a CLIP's text tower.

    Args:
      encoder: the text tower.
    """

    reads_text = True
    class_names = None

    def __init__(self, encoder: TextEncoder):
        self._encoder = encoder
        self.extractor_id, self.weights_sha256 = encoder.encoder_id, encoder.weights_sha256
        self.dim = encoder.dim

    def scale(self, embeddings: np.ndarray) -> np.ndarray:
        """Return embeddings of norm 1 with a mean square of 1 for each feature.

        KID's kernel divides by the number of features. For vectors of norm 1, it would be almost linear,
        and would compare little more than the means of two sets.
        """
        return embeddings * np.float32(self.dim**0.5)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._encoder.encode(texts, truncate=True)

    def classify(self, features: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Return the class whose name is nearest to each image; see `Extractor`."""
        return (features @ self.encode_texts(class_names).T).argmax(1)
