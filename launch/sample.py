"""Draw images: python launch/sample.py --workdir=runs/emoji32 --prompt="red heart" --output=heart.png

--prompt (or --label, for a model of classes) may be given several times. Image i of every prompt is
drawn from seed --seed + i, and is the same whatever else is drawn. An --output that ends in .png is
one picture, each prompt over its images; any other is a folder of single images at their own size.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from t2i_tpu import cli

SAMPLING = cli.define_sampling()
PROMPT = flags.DEFINE_multi_string("prompt", [], "What to draw.")
LABEL = flags.DEFINE_multi_string("label", [], "Class to draw: its name or number.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 4, "Images of each prompt.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the first image of each prompt.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", "sample.png", "A .png, or a folder.")


def main() -> None:
    import numpy as np

    from t2i_tpu.errors import UserError
    from t2i_tpu.sample import trained
    from t2i_tpu.sample.pictures import draw_grid, save_picture, to_picture

    names = PROMPT.value + LABEL.value
    if not names:
        raise UserError(
            'nothing to draw; give --prompt="red heart" or, for a model of classes, --label=3'
        )
    model = trained.load_trained(**SAMPLING())
    seeds = np.arange(SEED.value, SEED.value + NUM_IMAGES.value)
    conditions = {
        name: np.repeat(values, len(seeds), axis=0)
        for name, values in model.make_conditions(PROMPT.value, LABEL.value).items()
    }
    images = model.generator.draw(conditions, np.tile(seeds, len(names)))
    if OUTPUT.value.lower().endswith(".png"):
        sections = [(f"{SAMPLING()['workdir']}, step {model.step}", [])]
        for index, name in enumerate(names):
            drawn = images[index * len(seeds) :]
            cells = [(image, f"seed {seed}") for image, seed in zip(drawn, seeds, strict=False)]
            sections.append((name, cells))
        save_picture(draw_grid(sections), OUTPUT.value)
    else:
        for index, image in enumerate(images):
            prompt, number = divmod(index, len(seeds))
            path = f"{OUTPUT.value.rstrip('/')}/{prompt:03d}_seed{seeds[number]}.png"
            save_picture(to_picture(image), path)
    print(f"drew {len(images)} image(s) into {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
