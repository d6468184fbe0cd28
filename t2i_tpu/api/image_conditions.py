"""Turns images into conditions, so that the model draws similar images."""

from collections.abc import Sequence

import numpy as np

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import check_weights, make_extractor
from t2i_tpu.sample.trained import TrainedModel


def can_condition_on_images(model: TrainedModel) -> bool:
    """Return whether `make_image_conditions` works for a model."""
    return model.config.model.conditioning == "embedding" and model.manifest.channels == 3


def make_image_conditions(
    model: TrainedModel, images: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the conditions of images: their embeddings from the image tower of the model's CLIP.

    Args:
      model: a model that takes embeddings.
      images: N images, uint8 [H, W, C].

    Raises:
      UserError: the model does not take embeddings, or its CLIP cannot be loaded.
    """
    if not can_condition_on_images(model):
        raise UserError(
            f"a model with conditioning={model.config.model.conditioning} and {model.manifest.channels} color "
            "channels cannot use an image as a prompt, which needs embeddings of color images; edit the "
            "image instead"
        )
    extractor = make_extractor(model.manifest.embedding.encoder)
    check_weights(extractor, model.manifest)
    features = extractor.extract(np.stack(images))
    return {"embedding": features / np.linalg.norm(features, axis=1, keepdims=True)}
