"""The grid of a run: the same captions from the same seeds at every preview, beside real images."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_tpu.config import PreviewConfig
from t2i_tpu.data.reader import Dataset
from t2i_tpu.train.generator import Generator

COLUMNS = 8
CELL = 64  # pixels of the shorter side that an image is enlarged to, at least
GAP, LINE = 8, 14


class Preview:
    """The captions to draw, their real images and their seeds, fixed for the run."""

    def __init__(self, config: PreviewConfig, dataset: Dataset):
        train = dataset.examples("train", max(config.num_train, len(config.captions)), config.captions)
        heldout = []
        if config.num_heldout and "heldout" in dataset.manifest.splits:
            heldout = dataset.examples("heldout", config.num_heldout)
        self.sections = {"training captions: drawn | real": train, "held-out captions: drawn | real": heldout}
        self.sections = {title: examples for title, examples in self.sections.items() if examples}

    def draw(self, generator: Generator) -> Image.Image:
        examples = [example for section in self.sections.values() for example in section]
        noise = generator.noise(np.arange(len(examples)))
        drawn = generator.images(np.stack([example["condition"] for example in examples]), noise)
        sections, start = {}, 0
        for title, section in self.sections.items():
            sections[title] = [
                (np.concatenate([image, example["image"]], axis=1), example["caption"])
                for image, example in zip(drawn[start:], section, strict=False)
            ]
            start += len(section)
        return grid(sections)


def grid(sections: dict[str, list[tuple[np.ndarray, str]]], columns: int = COLUMNS) -> Image.Image:
    """Sections of (image uint8 [H, W, C], caption) as one white picture."""
    height, width, _ = next(iter(sections.values()))[0][0].shape
    scale = max(1, -(-CELL // min(height, width)))
    cell = (width * scale + GAP, height * scale + GAP + LINE)
    rows = [-(-len(section) // columns) for section in sections.values()]
    columns = min(columns, max(len(section) for section in sections.values()))
    size = (columns * cell[0] + GAP, sum(rows) * cell[1] + len(sections) * (LINE + GAP) + GAP)
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    top = GAP
    for (title, section), count in zip(sections.items(), rows, strict=True):
        pen.text((GAP, top), title, fill="black", font=font)
        top += LINE + GAP // 2
        for index, (image, caption) in enumerate(section):
            x, y = GAP + index % columns * cell[0], top + index // columns * cell[1]
            picture.paste(_enlarged(image, scale), (x, y))
            pen.text((x, y + height * scale), _fitted(caption, pen, font, cell[0] - GAP), fill="#555", font=font)
        top += count * cell[1] + GAP // 2
    return picture


def _enlarged(image, scale):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _fitted(caption, pen, font, width):
    while caption and pen.textlength(caption, font=font) > width:
        caption = caption[:-1] if not caption.endswith("…") else caption[:-2].rstrip()
        caption += "…"
    return caption
