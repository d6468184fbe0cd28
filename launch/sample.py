"""Draw images with a trained model.

  python launch/sample.py --workdir=runs/emoji32 --prompt="red heart" --output=heart.png

Repeat --prompt (or --label, if the model was trained on classes) to draw several prompts. The images
of each prompt have the seeds --seed, --seed + 1, and so on. An image depends on its prompt and seed,
but not on the other images. If --output ends in .png, all images go into one picture, grouped by
prompt. Otherwise it is a folder, and each image becomes a separate file in its original size.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import re

import numpy as np
from absl import flags

from t2i_tpu import cli
from t2i_tpu.config import MAX_SEED
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

SAMPLING = cli.define_sampling()
PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to draw. May be repeated.")
LABEL = flags.DEFINE_multi_string(
    "label", [], "Class to draw, by its name or number. May be repeated."
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 4, "Number of images for each prompt.", lower_bound=1
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of each prompt's first image.", lower_bound=0, upper_bound=MAX_SEED
)
OUTPUT = cli.define_path(
    "output", "sample.png", "A .png file or a folder, local or gs://bucket/path."
)


def main() -> None:
    from t2i_tpu.sample.trained import load_trained

    names = PROMPT.value + LABEL.value
    is_picture = OUTPUT.value.lower().endswith(".png")
    _check_flags(names, is_picture)
    model = load_trained(**cli.get_values(SAMPLING))
    conditions = model.make_conditions(PROMPT.value, LABEL.value)
    images = _draw(model, conditions, len(names))
    if is_picture:
        _save_picture(f"{model.workdir}, step {model.step}", names, images)
    else:
        _save_images(images)
    print(f"drew {len(names) * NUM_IMAGES.value} image(s) into {OUTPUT.value}")


def _check_flags(names: list[str], is_picture: bool) -> None:
    """Raise UserError if there is nothing to draw, or if the flags contradict each other."""
    from t2i_tpu.sample.pictures import MAX_CELLS
    from t2i_tpu.storage import outputs

    if not names:
        raise UserError(
            'nothing to draw; give --prompt="red heart" or, if the model was trained on classes, '
            "--label=3"
        )
    if SEED.value + NUM_IMAGES.value - 1 > MAX_SEED:
        raise UserError(
            f"--seed={SEED.value} --num_images={NUM_IMAGES.value}: the last image's seed would be "
            f"above {MAX_SEED}, the highest seed; use a lower --seed"
        )
    count = len(names) * NUM_IMAGES.value
    if is_picture and count > MAX_CELLS:
        raise UserError(
            f"--num_images={NUM_IMAGES.value}: one picture has room for {MAX_CELLS} images, not for "
            f"{count}; use a folder as --output, which has no limit"
        )
    check_ending("output", OUTPUT.value, (".png",), "a folder")
    if is_picture:
        outputs.check_file(OUTPUT.value, "--output=")
    else:
        outputs.check_files(OUTPUT.value, lambda name: _will_write(name, len(names)), "--output=")


def _will_write(name: str, num_names: int) -> bool:
    """Return whether `_save_images` will write a file with this name."""
    match = re.fullmatch(r"(\d{3,})_seed(\d+)\.png", name)
    return (
        bool(match)
        and int(match[1]) < num_names
        and 0 <= int(match[2]) - SEED.value < NUM_IMAGES.value
    )


def _draw(model, conditions: dict[str, np.ndarray], num_names: int):
    """Yield (index of the prompt or label, seed, image uint8 [H, W, C]) for each image.

    Images are drawn a batch at a time, so memory use does not depend on their number.
    """
    batch_size, per_name = model.generator.batch_size, NUM_IMAGES.value
    for start in range(0, num_names * per_name, batch_size):
        numbers = np.arange(start, min(start + batch_size, num_names * per_name))
        indices, seeds = numbers // per_name, SEED.value + numbers % per_name
        batch = {name: values[indices] for name, values in conditions.items()}
        yield from zip(indices, seeds, model.generator.draw(batch, seeds), strict=True)


def _save_picture(title: str, names: list[str], images) -> None:
    """Write one picture with a section for each name; `_draw` yields the images."""
    from t2i_tpu.sample.picture_files import save_picture
    from t2i_tpu.sample.pictures import draw_grid

    sections = [(title, []), *((name, []) for name in names)]
    for index, seed, image in images:
        sections[index + 1][1].append((image, f"seed {seed}"))
    save_picture(draw_grid(sections), OUTPUT.value)


def _save_images(images) -> None:
    """Write each image to a separate file as soon as it is drawn; `_draw` yields the images."""
    from t2i_tpu.sample.picture_files import save_picture
    from t2i_tpu.sample.pictures import to_picture

    for index, seed, image in images:
        save_picture(to_picture(image), f"{OUTPUT.value}/{index:03d}_seed{seed}.png")


if __name__ == "__main__":
    cli.run(main)
