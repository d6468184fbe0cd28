"""Measures how evenly the frames of an interpolation change."""

from t2i_tpu.api.model import Model
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import choose_shipped_spec, make_extractor
from t2i_tpu.evaluate.smoothness import compute_smoothness
from t2i_tpu.sample.images import Images, join_images


def measure_largest_step(model: Model, *paths: Images) -> float | None:
    """Return the largest change between neighboring frames, relative to the mean change.

    The result is 1 if the frames change evenly. Changes are measured in the features of the small network
    that evaluations use.

    Args:
      model: the model that drew the frames.
      *paths: the frames of one or more interpolations. The result is the mean over them.

    Returns:
      The figure, or None if there are fewer than three frames, or if they do not change.
    """
    if len(paths[0]) < 3:
        return None
    extractor = make_extractor(choose_shipped_spec(model.trained.manifest))
    features = extractor.extract(join_images(paths).array)
    try:
        return compute_smoothness(features.reshape(len(paths), len(paths[0]), -1))["largest_step"]
    except UserError:
        return None
