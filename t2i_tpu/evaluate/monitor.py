"""Evaluates a model during its training, each time on the same few examples and seeds."""

from collections.abc import Callable

import numpy as np
from absl import logging

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import stack_conditions
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.data.reader import Dataset
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.agreement import LEAST_CAPTIONS, compute_accuracy, compute_agreement
from t2i_tpu.evaluate.checks import check_features, check_images
from t2i_tpu.evaluate.denoising import NOISE_LEVELS, DenoisingLoss
from t2i_tpu.evaluate.distances import kid
from t2i_tpu.evaluate.extractors.extractor import Extractor, knows_classes
from t2i_tpu.sample.generator import Generator

# The noise levels at which the denoising loss is measured.
LEVELS = NOISE_LEVELS[::2]

Examples = list[dict[str, object]]


class Monitor:
    """The examples, features and seeds of a run's evaluations, which never change.

    Images are drawn for the conditions of the first held-out examples, or of the first training
    examples if the data set has too few held-out ones, and compared with these examples' own images.
    The denoising loss is measured on the first examples of both splits.

    Attributes:
      splits: the first examples of each split.
      split: the split whose conditions are drawn.
      measure_accuracy: a function from the features of drawn images to the condition accuracy, or None
        if it cannot be measured; see `make_accuracy`.
    """

    def __init__(self, config: Config, dataset: Dataset, extractor: Extractor):
        """Read the examples, and extract the features of their images.

        Args:
          config: resolved.
          dataset: the data set that the model is trained on.
          extractor: extracts features.

        Raises:
          UserError: there are too few examples, or config.train.best_metric cannot be measured.
        """
        self.extractor = extractor
        names = [name for name in ("heldout", "train") if name in dataset.manifest.splits]
        count = config.train.evaluate_images
        self.splits = {name: dataset.examples(name, count) for name in names}
        self.split = self._choose_split(dataset.folder)
        examples = self.splits[self.split]
        self.real = extractor.extract(_stack_images(examples))
        check_features(self.real, "real images")
        self.measure_accuracy = make_accuracy(extractor, examples, dataset.manifest)
        self._check_metric(config.train.best_metric)
        text = f"evaluations draw images for {len(examples)} {self.split} examples"
        if self.measure_accuracy:
            text += f"; condition accuracy of real images: {self.measure_accuracy(self.real):.2f}"
        logging.info("%s", text)

    def _choose_split(self, folder: str) -> str:
        """Return the first split with enough examples for KID."""
        needed = kid.DISTANCE.count_needed(self.extractor.dim)
        for name, examples in self.splits.items():
            if len(examples) >= needed:
                return name
        raise UserError(
            f"config.train.evaluate_every: KID needs at least {needed} images; raise "
            f"config.train.evaluate_images or, if {folder} has too few examples, set "
            "config.train.evaluate_every=0"
        )

    def _check_metric(self, metric: str) -> None:
        """Raise UserError if the evaluations will not measure config.train.best_metric."""
        if metric == "heldout_loss" and "heldout" not in self.splits:
            reason = "the data set has no held-out examples"
        elif metric == "condition_accuracy" and not self.measure_accuracy:
            reason = (
                f"extractor {self.extractor.extractor_id!r} cannot recognize the data set's labels or "
                f"captions (it needs at least {LEAST_CAPTIONS} different captions)"
            )
        else:
            return
        raise UserError(
            f"config.train.best_metric is {metric!r}, but {reason}; use --config.train.best_metric=kid"
        )

    def measure(self, generator: Generator, loss: DenoisingLoss) -> dict:
        """Evaluate a model. If there are several processes, all must call this method.

        Args:
          generator: draws images with the model.
          loss: measures the denoising loss of the model.

        Returns:
          The content of a file of run/evaluations.py. Its "figures" are numbers by their names in
          `evaluations.FIGURES`. Its "loss_by_noise_level" contains the list "noise_level" and a list
          of losses for each split.

        Raises:
          UserError: the model draws nothing that can be measured.
        """
        # Use the devices of all processes.
        losses = {
            name: loss.measure(_stack_images(examples), stack_conditions(examples), LEVELS)
            for name, examples in self.splits.items()
        }
        losses = {name: errors.mean(axis=0, dtype=float) for name, errors in losses.items()}
        conditions = stack_conditions(self.splits[self.split])
        drawn = generator.draw(conditions, np.arange(len(self.real)))
        # Compare the drawn images with the real ones and with their conditions.
        check_images(drawn, "drawn images")
        features = self.extractor.extract(drawn)
        check_features(features, "drawn images")
        figures = kid.compute_kid(self.real, features, is_paired=True)
        if self.measure_accuracy:
            figures["condition_accuracy"] = self.measure_accuracy(features)
        figures |= {f"{name}_loss": float(means.mean()) for name, means in losses.items()}
        return {
            "split": self.split,
            "num_images": len(drawn),
            "extractor": self.extractor.extractor_id,
            "weights_sha256": self.extractor.weights_sha256,
            "resize": self.extractor.resize,
            "figures": figures,
            "loss_by_noise_level": {
                "noise_level": list(LEVELS),
                **{name: means.tolist() for name, means in losses.items()},
            },
        }


def make_monitor(config: Config, dataset: Dataset) -> Monitor | None:
    """Return the monitor of a run, or None if config.train.evaluate_every is 0.

    Raises:
      UserError: see `Monitor`; or there is no extractor for this data set.
    """
    if not config.train.evaluate_every:
        return None
    # Imported here because other runs do not need what it imports.
    from t2i_tpu.evaluate.extractors.choose import choose_shipped_spec, make_extractor

    # What is installed must not change the figures of a run that is resumed elsewhere.
    return Monitor(config, dataset, make_extractor(choose_shipped_spec(dataset.manifest)))


def make_accuracy(
    extractor: Extractor, examples: Examples, manifest: Manifest
) -> Callable[[np.ndarray], float] | None:
    """Return a function from the features of images to their condition accuracy.

    If the model takes labels, the accuracy is the share of images that the extractor assigns to the right
    class. Otherwise, it is the share of images that agree better with the right caption than with each of
    up to 99 others. The result is None if the extractor does not know the classes or reads no text, or if
    there are too few different captions.
    """
    if "label" in examples[0]["condition"]:
        names = list(manifest.label_names)
        if not knows_classes(extractor, names):
            return None
        labels = stack_conditions(examples)["label"] - 1  # conditions start at 1

        def measure_labels(features):
            return compute_accuracy(extractor.classify(features, names), labels)[0]["accuracy"]

        return measure_labels

    captions = [example["caption"] for example in examples]
    if not extractor.reads_text or len(set(captions)) < LEAST_CAPTIONS:
        return None
    texts = extractor.encode_texts(captions)

    def measure_prompts(features):
        images = features / np.linalg.norm(features, axis=1, keepdims=True)
        return compute_agreement(images, texts, captions, seed=0)["retrieval_at_1"]

    return measure_prompts


def _stack_images(examples: Examples) -> np.ndarray:
    return np.stack([example["image"] for example in examples])
