"""Draw images with a trained model.

  python launch/sample.py --workdir=runs/emoji32 --prompt="red heart" --output=heart.png
  python launch/sample.py --workdir=runs/emoji32 --prompts_file=prompts.csv --output=drawn
  python launch/sample.py --like=heart.png --output=again.png

Repeat --prompt (or --label, if the model was trained on classes), --compose or --image_prompt to draw
several prompts. The images of each prompt have the seeds --seed, --seed + 1, and so on. An image depends
on its prompt, its seed and the settings, but not on the other images.

If --output ends in .png, .jpg or .webp, all images go into one picture, grouped by prompt. Otherwise it
is a folder, and each image becomes a file in its original size as soon as it is drawn. If the command is
interrupted, run it again to draw only the missing images. The metadata of every file records how its
images were drawn, and --like draws them again.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

import t2i_tpu
from t2i_tpu import cli
from t2i_tpu.api.load import load_again
from t2i_tpu.api.prompt_rows import DrawingList, PromptRow, check_text, parse_weighted
from t2i_tpu.config import MAX_SEED
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

SAMPLING = cli.define_sampling(needs_workdir=False)
PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to draw. May be repeated.")
LABEL = flags.DEFINE_multi_string(
    "label", [], "Name or number of a class to draw. May be repeated."
)
COMPOSE = flags.DEFINE_multi_string(
    "compose",
    [],
    "Several prompts to combine in one image, each followed by a colon and its weight, as in "
    '"a cat:1.0 a hat:0.5". May be repeated.',
)
IMAGE_PROMPT = flags.DEFINE_multi_string(
    "image_prompt",
    [],
    "Picture to use as a prompt, local or gs://, to draw similar images. Needs a model with "
    "conditioning=embedding. May be repeated.",
)
PROMPTS_FILE = cli.define_path(
    "prompts_file",
    None,
    "File of prompts, local or gs://: a .txt with a prompt per line, or a .csv or .tsv whose heading has a "
    "column prompt (or label) and optionally negative_prompt, seed, guidance_scale and num_images.",
    is_output=False,
)
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", "", "Text or class that guidance steers away from."
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 4, "Number of images for each prompt.", lower_bound=1
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of each prompt's first image.", lower_bound=0, upper_bound=MAX_SEED
)
LIKE = cli.define_path(
    "like",
    None,
    "File that this program wrote, local or gs://, whose images are drawn again. Its metadata gives the "
    "prompts, the settings and the model. If the model was moved, give its new folder as --workdir.",
    is_output=False,
)
OUTPUT = cli.define_path(
    "output",
    "sample.png",
    "A file that ends in .png, .jpg or .webp, or a folder, local or gs://bucket/path.",
)
FORMAT = flags.DEFINE_enum(
    "format", "png", ["png", "jpg", "webp"], "Format of the files in a folder."
)

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_ANIMATIONS = (".gif", ".mp4")  # for --like of an interpolation
# The flags that can be given together with --like.
_WITH_LIKE = ("like", "workdir", "strategy", "engine", "output")


def main() -> None:
    _check_flags()
    if LIKE.value:
        _draw_again()
        return
    drawings = DrawingList(_make_rows())
    _check_output(drawings)
    model = cli.load_model(SAMPLING, LABEL.value)
    if _is_picture():
        _draw_picture(model, drawings)
    else:
        _draw_folder(model, drawings)


def _is_picture() -> bool:
    return OUTPUT.value.lower().endswith(_PICTURES)


def _check_flags() -> None:
    """Raise UserError if flags are missing or contradict each other."""
    endings = _PICTURES + _ANIMATIONS if LIKE.value else _PICTURES
    check_ending("output", OUTPUT.value, endings, "a folder")
    present = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(__file__) if flag.present]
    if _is_picture() and "format" in present:
        raise UserError(
            f"--format={FORMAT.value} is for the files in a folder, but --output={OUTPUT.value} is one "
            "picture; leave out --format"
        )
    if LIKE.value:
        for name in present:
            if name not in _WITH_LIKE:
                raise UserError(
                    f"--like={LIKE.value} draws the same images again, so --{name} cannot change them; leave out "
                    "one of the flags"
                )
    elif not SAMPLING["workdir"].value:
        raise UserError("--workdir must be given; see --help")
    cli.check_guide(SAMPLING, [NEGATIVE_PROMPT, COMPOSE])


def _make_rows() -> list[PromptRow]:
    """Return a row for each prompt. Raises UserError if there are none, or if a prompt is not valid."""
    from t2i_tpu.api.prompt_files import read_rows

    prompts = []
    for flag in (PROMPT, LABEL, COMPOSE):
        for text in flag.value:
            with cli.name_flag(flag.name, text):
                prompts.append(parse_weighted(text) if flag is COMPOSE else check_text(text))
    prompts += _read_images()
    defaults = NUM_IMAGES.value, SEED.value, NEGATIVE_PROMPT.value
    with cli.name_flag("seed", SEED.value):
        rows = [PromptRow(prompt, *defaults) for prompt in prompts]
    if PROMPTS_FILE.value:
        rows += read_rows(PROMPTS_FILE.value, *defaults)
    if not rows:
        raise UserError(
            'nothing to draw; give --prompt="red heart" or, if the model was trained on classes, --label=3'
        )
    return rows


def _read_images() -> list:
    """Return the pictures of --image_prompt in the model's size."""
    from t2i_tpu.run import workdir as workdir_lib
    from t2i_tpu.sample.inputs import read_image

    if not IMAGE_PROMPT.value:
        return []
    config, manifest = workdir_lib.read(SAMPLING["workdir"].value)
    return [
        read_image(path, config.data.image_size, manifest.channels) for path in IMAGE_PROMPT.value
    ]


def _check_output(drawings: DrawingList) -> None:
    """Raise UserError if --output cannot be written."""
    from t2i_tpu.sample.pictures import MAX_CELLS
    from t2i_tpu.storage import outputs

    if not _is_picture():
        ending = f".{FORMAT.value}"
        outputs.check_files(OUTPUT.value, lambda name: drawings.has_file(name, ending), "--output=")
        return
    outputs.check_file(OUTPUT.value, "--output=")
    if len(drawings) > MAX_CELLS:
        raise UserError(
            f"--output={OUTPUT.value}: one picture has room for {MAX_CELLS} images, not for {len(drawings)}; "
            "use a folder as --output, which has no limit"
        )


def _draw_picture(model: "t2i_tpu.Model", drawings: DrawingList) -> None:
    """Draw all images into one picture."""
    from t2i_tpu.sample.images import check_grid, join_images

    size = model.config.data.image_size
    with cli.name_flag("output", OUTPUT.value):
        sections = [(str(row.prompt), row.num_images) for row in drawings.rows]
        check_grid(OUTPUT.value, sections, size, size)
    parts = []
    with cli.show_progress(len(drawings)) as progress:
        for images in model.draw(drawings):
            parts.append(images)
            progress.update(len(images))
    join_images(parts).save(OUTPUT.value)
    print(f"drew {len(drawings)} image(s) into {OUTPUT.value}")


def _draw_folder(model: "t2i_tpu.Model", drawings: DrawingList) -> None:
    """Draw the images that are not in the folder yet."""
    from t2i_tpu.api.folders import draw_missing, find_complete
    from t2i_tpu.sample.image_folder import ImageFolder

    ending = f".{FORMAT.value}"
    with ImageFolder(OUTPUT.value, "--output=") as folder:
        complete = find_complete(model, drawings, folder, ending)
        count = len(drawings) - len(complete)
        with cli.show_progress(count) as progress:
            for drawn in draw_missing(model, drawings, folder, ending, complete):
                progress.update(drawn)
    existing = f"; {len(complete)} already existed" if complete else ""
    print(f"drew {count} image(s) into {OUTPUT.value}{existing}")


def _draw_again() -> None:
    """Draw the images of --like again."""
    from t2i_tpu.storage import outputs

    if _is_picture():
        outputs.check_file(OUTPUT.value, "--output=")
    records = t2i_tpu.read_records(LIKE.value)
    options = {name: SAMPLING[name].value for name in ("workdir", "engine", "strategy")}
    model = load_again(records, **options)
    images = model.redraw(records)
    images.save(OUTPUT.value)
    print(f"drew {len(images)} image(s) into {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
