"""Interpolates between seeds and between prompts, and finds the nearest training image of each frame."""

import numpy as np
from PIL import Image

from t2i_tpu.diffusion.interpolation import slerp
from t2i_tpu.evaluate.memorisation import find_nearest
from t2i_tpu.evaluate.sections.section import Context, Section, summarize_or_explain
from t2i_tpu.evaluate.smoothness import FIGURES, compute_smoothness
from t2i_tpu.sample.pictures import draw_grid

_NUM_PATHS = 6
_NUM_FRAMES = 9


def measure(context: Context) -> Section | None:
    """Draw paths between seeds and between prompts of training examples, and measure how smooth they are."""
    split = context.splits.get("train")
    if not split:
        return None
    generator = context.model.generator
    rows = split.rows[:_NUM_PATHS]
    starts = split.real.get_conditions(rows)
    seeds = context.settings.get_seeds(context.settings.num_sets, 2 * len(rows))
    noise = generator.initial_noise(seeds).reshape(len(rows), 2, *generator.denoiser.image_shape)

    # A path is (the conditions of its frames, their noise, its title).
    paths = {"seeds": [], "prompts": []}
    for index, row in enumerate(rows):
        condition = {
            name: np.repeat(values[index : index + 1], _NUM_FRAMES, axis=0)
            for name, values in starts.items()
        }
        caption = split.real.captions[row]
        paths["seeds"].append((condition, slerp(*noise[index], _NUM_FRAMES), caption))
        if generator.denoiser.condition_spec.is_continuous and len(rows) > 1:
            other = (index + 1) % len(rows)
            condition = {
                name: slerp(values[index], values[other], _NUM_FRAMES)
                for name, values in starts.items()
            }
            same_noise = np.repeat(noise[index, :1], _NUM_FRAMES, axis=0)
            title = f"{caption} → {split.real.captions[rows[other]]}"
            paths["prompts"].append((condition, same_noise, title))
    figures, pictures = {}, {}
    for kind, kind_paths in paths.items():
        if kind_paths:
            figures[kind], pictures[kind] = _measure_paths(context, kind_paths)
    return Section(figures, pictures)


def _measure_paths(context: Context, paths: list[tuple]) -> tuple[dict, Image.Image]:
    """Draw the frames of paths; return the figures, and a picture with the nearest training images."""
    train, generator = context.splits["train"], context.model.generator
    # Draw the frames of all paths together, because a batch has a fixed size.
    names = context.model.generator.denoiser.condition_spec.fields
    conditions = {name: np.concatenate([path[0][name] for path in paths]) for name in names}
    noise = np.concatenate([path[1] for path in paths])
    images = generator.draw(conditions, np.zeros(len(noise), np.int64), noise)
    features = context.extractor.extract(images)
    _, nearest = find_nearest(features, train.real_features)

    # Measure the paths, and show each frame above the training image that is nearest to it.
    paths_of_features = features.reshape(len(paths), _NUM_FRAMES, -1)
    smoothness = summarize_or_explain(FIGURES, lambda: [compute_smoothness(paths_of_features)])
    frames = [
        (np.concatenate([image, train.real.images[row]]), train.real.captions[row])
        for image, row in zip(images, nearest, strict=True)
    ]
    sections = [
        (title, frames[index * _NUM_FRAMES : (index + 1) * _NUM_FRAMES])
        for index, (_, _, title) in enumerate(paths)
    ]
    return smoothness, draw_grid(sections, columns=_NUM_FRAMES)
