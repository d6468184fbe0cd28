"""The grid of a run: the same captions from the same seeds at every preview, beside real images."""

import numpy as np
from PIL import Image

from t2i_tpu.config import PreviewConfig
from t2i_tpu.data.reader import Dataset
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.pictures import grid


class Preview:
    """The captions to draw, their real images and their seeds, fixed for the run."""

    def __init__(self, config: PreviewConfig, dataset: Dataset):
        train = dataset.examples(
            "train", max(config.num_train, len(config.captions)), config.captions
        )
        heldout = []
        if config.num_heldout and "heldout" in dataset.manifest.splits:
            heldout = dataset.examples("heldout", config.num_heldout)
        self.sections = {
            "training captions: drawn | real": train,
            "held-out captions: drawn | real": heldout,
        }
        self.sections = {title: examples for title, examples in self.sections.items() if examples}

    def draw(self, generator: Generator) -> Image.Image:
        examples = [example for section in self.sections.values() for example in section]
        noise = generator.noise(np.arange(len(examples)))
        drawn = generator.images(np.stack([example["condition"] for example in examples]), noise)
        sections, start = [], 0
        for title, section in self.sections.items():
            cells = [
                (np.concatenate([image, example["image"]], axis=1), example["caption"])
                for image, example in zip(drawn[start:], section, strict=False)
            ]
            sections.append((title, cells))
            start += len(section)
        return grid(sections)
