"""Evaluates a trained model: draws images, compares them with real ones, and returns a report."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from t2i_tpu import __version__
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.reader import Dataset
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.checks import count_plain
from t2i_tpu.evaluate.extractors.choose import check_weights
from t2i_tpu.evaluate.extractors.extractor import Extractor
from t2i_tpu.evaluate.sections import (
    agreement,
    distances,
    drawn,
    generalisation,
    interpolation,
    memorisation,
    two_sample,
)
from t2i_tpu.evaluate.sections.section import Context, Measure
from t2i_tpu.evaluate.splits import Settings, Split, collect_splits
from t2i_tpu.sample.trained import TrainedModel

FORMAT_VERSION = 1
_NUM_PAIRS = 40

# The sections in the order of the report.
_SECTIONS: dict[str, Measure] = {
    "distances": distances.measure,
    "agreement": agreement.measure,
    "drawn": drawn.measure,
    "generalisation": generalisation.measure,
    "two_sample": two_sample.measure,
    "interpolation": interpolation.measure,
    "memorisation": memorisation.measure,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A drawn and a real image, uint8 [H, W, 1 or 3], and their prompt, or "" if they have none."""

    drawn: np.ndarray
    real: np.ndarray
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
      report: the content of report.json.
      pictures: the pictures of the report. Their names start with the name of a section and "/".
      pairs: the images of the guess sheet.
    """

    report: dict[str, Any]
    pictures: dict[str, Image.Image]
    pairs: list[Pair]


def check(dataset: Dataset, manifest: Manifest, workdir: str, extractor: Extractor) -> None:
    """Check that a data set can be used for an evaluation, before the model is loaded.

    Args:
      dataset: the data set to compare with.
      manifest: the manifest of the data set that the model was trained on.
      workdir: the model's workdir, for messages.
      extractor: extracts the features of the data set's images.

    Raises:
      UserError: the model was trained on another data set, or the extractor cannot read its images.
    """
    if dataset.manifest != manifest:
        raise UserError(
            f"{dataset.folder} is not the data set that the model in {workdir} was trained on; set "
            "--source to that data set"
        )
    check_weights(extractor, manifest)
    size = dataset.image_size
    extractor.extract(np.zeros((1, size, size, manifest.channels), np.uint8))


def evaluate(
    model: TrainedModel, dataset: Dataset, extractor: Extractor, settings: Settings, folder: str
) -> Evaluation:
    """Evaluate a model.

    Args:
      model: the model.
      dataset: the data set that it was trained on.
      extractor: extracts the features of images.
      settings: how many images to read and draw.
      folder: an empty local folder for large files. The caller removes it.

    Raises:
      UserError: the images cannot be measured.
    """
    seconds: dict[str, float] = {}
    with _measure_time(seconds, "images and features"):
        splits = collect_splits(model, dataset, extractor, settings, folder)
    context = Context(model, extractor, settings, splits)
    report, pictures = _describe(context), {}
    for name, measure in _SECTIONS.items():
        logging.info("measuring: %s", name.replace("_", " "))
        with _measure_time(seconds, name.replace("_", " ")):
            section = measure(context)
        if section:
            report |= {name: section.figures} if section.figures else {}
            pictures |= {f"{name}/{title}": picture for title, picture in section.pictures.items()}
    report["warnings"] = _list_warnings(context)
    report["seconds"] = seconds
    return Evaluation(report, pictures, _make_pairs(splits))


@contextlib.contextmanager
def _measure_time(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def _describe(context: Context) -> dict[str, Any]:
    """Return the parts of a report that say what was evaluated, and how."""
    model, extractor, settings = context.model, context.extractor, context.settings
    sample, splits = model.config.sample, context.splits
    return {
        "generator": f"t2i_tpu {__version__}",
        "format_version": FORMAT_VERSION,
        "run": {
            "workdir": model.workdir,
            "step": model.step,
            "total_steps": model.config.train.total_steps,
            "weights": _describe_weights(model),
            "recipe": model.config.recipe,
            "seed": model.config.seed,
            "data": model.manifest.name,
            "manifest_sha256": hashlib.sha256(model.manifest.to_json().encode()).hexdigest(),
            "dtype_policy": model.generator.denoiser.dtype_policy.name,
        },
        "settings": {
            "num_images": {name: len(split.rows) for name, split in splits.items()},
            "num_real": {name: len(split.real) for name, split in splits.items()},
            "num_sets": settings.num_sets,
            "first_seeds": [
                int(settings.get_seeds(number, 1)[0]) for number in range(settings.num_sets)
            ],
            "extractor": {
                "id": extractor.extractor_id,
                "weights_sha256": extractor.weights_sha256,
                "resize": extractor.resize,
                "dim": extractor.dim,
            },
            "sampler": dataclasses.asdict(sample),
        },
    }


def _describe_weights(model: TrainedModel) -> str:
    """Return "trained weights", or "average S" for the average that --average=S selects."""
    return "trained weights" if model.average == "none" else f"average {model.average}"


def _list_warnings(context: Context) -> list[str]:
    """Return the warnings at the top of the report, one line each."""
    warnings = _list_extractor_warnings(context)
    for name, split in context.splits.items():
        num_examples = context.model.manifest.num_examples(name)
        if name == "train" and len(split.real) < num_examples:
            warnings.append(
                f"only {len(split.real):,} of the {num_examples:,} training images were read, so copies and "
                "duplicates of the others are not found; --max_real sets the limit"
            )
        count, total = count_plain(split.drawn[0]), len(split.drawn[0])
        num_real = count_plain(split.real.images)
        if split.own_images and count / total > 0.01 + num_real / len(split.real):
            warnings.append(f"{count} of {total} drawn {name} images have a single color")
    return warnings


def _list_extractor_warnings(context: Context) -> list[str]:
    """Return a warning if the images are of another kind than those that the extractor knows."""
    manifest, extractor = context.model.manifest, context.extractor.extractor_id
    if extractor == "embedded" and manifest.name != "emoji":
        return [
            "the extractor embedded has only learned from emoji; for photos or art, use another "
            "--extractor, such as ViT-B-32/openai"
        ]
    classes = context.extractor.class_names
    if extractor == "fashion_mnist" and manifest.label_names != classes:
        return [
            "the extractor fashion_mnist has only learned from clothes; its features may miss what "
            "matters in other images"
        ]
    return []


def _make_pairs(splits: dict[str, Split]) -> list[Pair]:
    """Return pairs of drawn and real images of the same caption, from the held-out split if possible."""
    split = [split for split in splits.values() if split.own_images][-1]
    return [
        Pair(np.asarray(image), np.asarray(split.real.images[row]), split.real.captions[row])
        for row, image in zip(split.rows[:_NUM_PAIRS], split.drawn[0], strict=False)
    ]
