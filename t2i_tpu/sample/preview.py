"""Previews: images drawn from fixed captions and seeds, next to the real images."""

import numpy as np
from PIL import Image

from t2i_tpu.config import PreviewConfig
from t2i_tpu.data.conditions import stack_conditions
from t2i_tpu.data.reader import Dataset
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.pictures import draw_grid


class Preview:
    """The captions, real images and seeds of a run's previews, which never change."""

    def __init__(self, config: PreviewConfig, dataset: Dataset):
        count = max(config.num_train, len(config.captions))
        sections = {
            "training captions: drawn | real": dataset.examples("train", count, config.captions)
        }
        if config.num_heldout and "heldout" in dataset.manifest.splits:
            heldout = dataset.examples("heldout", config.num_heldout)
            sections["held-out captions: drawn | real"] = heldout
        self.sections = {title: examples for title, examples in sections.items() if examples}

    def draw(self, generator: Generator) -> Image.Image:
        """Draw every caption and return the grid of drawn and real images."""
        examples = [example for section in self.sections.values() for example in section]
        drawn = generator.draw(stack_conditions(examples), np.arange(len(examples)))
        sections, start = [], 0
        for title, section in self.sections.items():
            images = drawn[start : start + len(section)]
            cells = [
                (np.concatenate([image, example["image"]], axis=1), example["caption"])
                for image, example in zip(images, section, strict=True)
            ]
            sections.append((title, cells))
            start += len(section)
        return draw_grid(sections)
