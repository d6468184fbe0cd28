"""Interpolation between seeds and between prompts, and the nearest training images along the way."""

import numpy as np
from PIL import Image

from t2i_tpu.diffusion.interpolation import slerp
from t2i_tpu.evaluate.memorisation import find_nearest
from t2i_tpu.evaluate.sections.section import Context, Section, round_figure
from t2i_tpu.evaluate.smoothness import compute_smoothness
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

    # Each path is (conditions of its frames, noise of its frames, title).
    paths = {"seeds": [], "prompts": []}
    for index, row in enumerate(rows):
        condition = {
            name: np.repeat(values[index : index + 1], _NUM_FRAMES, axis=0)
            for name, values in starts.items()
        }
        caption = split.real.captions[row]
        paths["seeds"].append((condition, slerp(*noise[index], _NUM_FRAMES), caption))
        if context.model.conditioning.can_interpolate and len(rows) > 1:
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
    sections, features = [], []
    for condition, noise, title in paths:
        images = generator.draw(condition, np.zeros(_NUM_FRAMES, np.int64), noise)
        frame_features = context.extractor.extract(images)
        _, nearest = find_nearest(frame_features, train.real_features)
        cells = [
            (np.concatenate([image, train.real.images[row]]), train.real.captions[row])
            for image, row in zip(images, nearest, strict=True)
        ]
        sections.append((title, cells))
        features.append(frame_features)
    smoothness = compute_smoothness(np.stack(features))
    figures = {name: round_figure(value) for name, value in smoothness.items()}
    return figures, draw_grid(sections, columns=_NUM_FRAMES)
