"""Draw images with a trained model.

  python launch/sample.py --workdir=runs/emoji32 --prompt="red heart" --output=heart.png

Repeat --prompt (or --label, if the model was trained on classes) to draw several prompts. The images
of each prompt have the seeds --seed, --seed + 1, and so on. An image depends on its prompt and seed,
but not on the other images. If --output ends in .png, all images go into one picture, grouped by
prompt. Otherwise it is a folder, and each image becomes a separate file in its original size.
"""

import numpy as np
from absl import flags

from t2i_tpu import cli
from t2i_tpu.errors import UserError

SAMPLING = cli.define_sampling()
PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to draw. May be repeated.")
LABEL = flags.DEFINE_multi_string(
    "label", [], "Class to draw, by its name or number. May be repeated."
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 4, "Number of images for each prompt.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of each prompt's first image.", lower_bound=0)
OUTPUT = cli.define_path(
    "output", "sample.png", "A .png file or a folder, local or gs://bucket/path."
)


def main() -> None:
    from t2i_tpu.sample.trained import load_trained

    names = PROMPT.value + LABEL.value
    if not names:
        raise UserError(
            'nothing to draw; give --prompt="red heart" or, if the model was trained on classes, '
            "--label=3"
        )
    if OUTPUT.value.lower().endswith((".jpg", ".jpeg", ".gif", ".webp")):
        raise UserError(f"--output={OUTPUT.value}: pictures are .png files; use .png, or a folder")
    model = load_trained(**cli.get_values(SAMPLING))
    seeds = np.arange(SEED.value, SEED.value + NUM_IMAGES.value)
    conditions = {
        name: np.repeat(values, len(seeds), axis=0)
        for name, values in model.make_conditions(PROMPT.value, LABEL.value).items()
    }
    images = model.generator.draw(conditions, np.tile(seeds, len(names)))
    images = images.reshape(len(names), len(seeds), *images.shape[1:])
    if OUTPUT.value.lower().endswith(".png"):
        _save_picture(f"{model.workdir}, step {model.step}", names, seeds, images)
    else:
        _save_images(seeds, images)
    print(f"drew {images.shape[0] * images.shape[1]} image(s) into {OUTPUT.value}")


def _save_picture(title: str, names: list[str], seeds: np.ndarray, images: np.ndarray) -> None:
    """Write one picture with a section for each name; `images` is uint8 [names, seeds, H, W, C]."""
    from t2i_tpu.sample.pictures import draw_grid, save_picture

    sections = [(title, [])]
    for name, row in zip(names, images, strict=True):
        cells = [(image, f"seed {seed}") for image, seed in zip(row, seeds, strict=True)]
        sections.append((name, cells))
    save_picture(draw_grid(sections), OUTPUT.value)


def _save_images(seeds: np.ndarray, images: np.ndarray) -> None:
    """Write each image to a separate file; `images` is uint8 [names, seeds, H, W, C]."""
    from t2i_tpu.sample.pictures import save_picture, to_picture

    for index, row in enumerate(images):
        for seed, image in zip(seeds, row, strict=True):
            save_picture(to_picture(image), f"{OUTPUT.value}/{index:03d}_seed{seed}.png")


if __name__ == "__main__":
    cli.run(main)
