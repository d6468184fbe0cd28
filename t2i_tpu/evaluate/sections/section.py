"""The interface of a section of a report, and code that all sections share."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.extractors.extractor import Extractor
from t2i_tpu.evaluate.splits import Settings, Split
from t2i_tpu.sample.trained import TrainedModel


@dataclasses.dataclass(frozen=True)
class Context:
    """The model and the images that sections measure.

    Attributes:
      model: the model.
      extractor: extracts the features of images.
      settings: how many images were read and drawn.
      splits: the images and features of each split.
    """

    model: TrainedModel
    extractor: Extractor
    settings: Settings
    splits: dict[str, Split]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
      figures: its part of report.json.
      pictures: its pictures by name.
    """

    figures: dict[str, Any]
    pictures: dict[str, Image.Image] = dataclasses.field(default_factory=dict)


# A function that measures a section. It returns None if there is nothing to measure.
Measure = Callable[[Context], Section | None]


def summarize(results: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return each figure's mean over sets of images, its standard deviation and its values.

    Args:
      results: the figures of each set by name.
    """
    summary = {}
    for name in results[0]:
        values = [float(result[name]) for result in results]
        spread = round_figure(float(np.std(values, ddof=1))) if len(values) > 1 else None
        summary[name] = {
            "value": round_figure(float(np.mean(values))),
            "spread": spread,
            "values": [round_figure(value) for value in values],
        }
    return summary


def summarize_or_explain(
    figures: Iterable[Figure], compute: Callable[[], Sequence[Mapping[str, float]]]
) -> dict[str, dict[str, Any]]:
    """Return `summarize(compute())`, or the reason without figures if `compute` raises UserError."""
    try:
        return summarize(compute())
    except UserError as error:
        return {figure.name: {"value": None, "reason": str(error)} for figure in figures}


def round_figure(value: float) -> float:
    """Round a number to six significant digits. More would differ between machines."""
    return float(f"{value:.6g}")
