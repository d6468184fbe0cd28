"""Measures whether the drawn images show what was asked for."""

from collections.abc import Sequence

import numpy as np

from t2i_tpu.evaluate.agreement import FIGURES, compute_accuracy, compute_agreement
from t2i_tpu.evaluate.extractors.choose import choose_spec, make_extractor
from t2i_tpu.evaluate.extractors.extractor import BATCH_SIZE, Extractor, knows_classes
from t2i_tpu.evaluate.sections.section import (
    Context,
    Section,
    summarize,
    summarize_or_explain,
)
from t2i_tpu.evaluate.splits import Split


def measure(context: Context) -> Section:
    """Measure the label accuracy, or the agreement with the prompts, for each split."""
    judge = _choose_judge(context)
    if not judge:
        return Section(
            {
                "reason": f"{context.extractor.extractor_id} knows neither the prompts nor the classes"
            }
        )
    measure_split = _measure_labels if _takes_labels(context) else _measure_prompts
    figures = {"judge": {"id": judge.extractor_id, "weights_sha256": judge.weights_sha256}}
    for name, split in context.splits.items():
        real, drawn = split.real_features[split.rows], split.features
        if judge is not context.extractor:
            real = _extract_rows(judge, split.real.images, split.rows)
            drawn = [judge.extract(images) for images in split.drawn]
        if split.own_images:
            figures[name] = measure_split(context, judge, split, drawn)
        figures[f"real_{name}"] = measure_split(context, judge, split, [real])
    return Section(figures)


def _extract_rows(judge: Extractor, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the features of some images, of which only a part is in memory at a time."""
    parts = np.array_split(rows, -(-len(rows) // BATCH_SIZE))
    return np.concatenate([judge.extract(images[part]) for part in parts])


def _takes_labels(context: Context) -> bool:
    return context.model.config.model.conditioning == "label"


def _choose_judge(context: Context) -> Extractor | None:
    """Return an extractor that recognizes what images show, if possible that of the evaluation."""
    if _can_judge(context, context.extractor):
        return context.extractor
    other = make_extractor(choose_spec(context.model.manifest))
    return other if _can_judge(context, other) else None


def _can_judge(context: Context, extractor: Extractor) -> bool:
    if not _takes_labels(context):
        return extractor.reads_text
    return knows_classes(extractor, context.model.manifest.label_names)


def _measure_labels(context: Context, judge: Extractor, split: Split, sets: Sequence[np.ndarray]):
    """Return the share of images that are recognized as their class, over all classes and for each."""
    names = context.model.manifest.label_names
    labels = split.real.conditions["label"][split.rows] - 1  # conditions start at 1
    overall, by_class = [], []
    for features in sets:
        accuracy, by_label = compute_accuracy(judge.classify(features, names), labels)
        overall.append(accuracy)
        by_class.append({names[label]: share for label, share in by_label.items()})
    return summarize(overall) | {"classes": summarize(by_class)}


def _measure_prompts(context: Context, judge: Extractor, split: Split, sets: Sequence[np.ndarray]):
    """Return the CLIP score and the figures of ranking captions; see `compute_agreement`."""
    captions = split.captions

    def compute():
        texts = judge.encode_texts(captions)
        for seed, features in enumerate(sets):
            images = features / np.linalg.norm(features, axis=1, keepdims=True)
            yield compute_agreement(images, texts, captions, seed)

    figures = [figure for figure in FIGURES if figure.name != "accuracy"]
    return summarize_or_explain(figures, lambda: list(compute()))
