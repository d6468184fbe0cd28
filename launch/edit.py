"""Edit an image with a trained model.

  python launch/edit.py --workdir=runs/emoji32 --image=apple.png --prompt="a green apple"
  python launch/edit.py --workdir=runs/emoji32 --image=face.png --mode=inpaint --mask=mask.png --prompt="a hat"

--mode chooses how:
  edit      changes the image towards --prompt. --strength sets how much.
  vary      draws variations of the image. --prompt is optional.
  inpaint   repaints the white parts of --mask, or the transparent parts of the image. The other pixels do
            not change.
  outpaint  makes the image smaller, by the factor --scale, and draws what surrounds it.
  invert    finds the noise from which the model draws the image, draws the image from it, and prints the
            error. --prompt says what the image shows.

If the image does not have the model's size, it is cropped to its middle square and resized.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

import t2i_tpu
from t2i_tpu import cli
from t2i_tpu.api.prompt_rows import PromptRow, check_text
from t2i_tpu.config import MAX_SEED
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

# The flags of each mode in addition to --image, --prompt, --label and --output.
_SEVERAL = ("num_images", "seed")
_FLAGS = {
    "edit": ("strength", "negative_prompt", *_SEVERAL),
    "vary": ("strength", *_SEVERAL),
    "inpaint": ("mask", "resamplings", "negative_prompt", *_SEVERAL),
    "outpaint": ("scale", "resamplings", "negative_prompt", *_SEVERAL),
    "invert": (),
}

SAMPLING = cli.define_sampling()
MODE = flags.DEFINE_enum("mode", "edit", list(_FLAGS), "How to edit the image; see above.")
IMAGE = cli.define_path("image", None, "Picture to edit, local or gs://.", is_output=False)
MASK = cli.define_path(
    "mask",
    None,
    "Black and white picture of the same size, whose white parts --mode=inpaint repaints. The default is "
    "the transparent parts of the image.",
    is_output=False,
)
PROMPT = flags.DEFINE_string("prompt", None, "Text that says what the result shows.")
LABEL = flags.DEFINE_string(
    "label", None, "Name or number of the class that the result shows. Replaces --prompt."
)
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", "", "Text or class that guidance steers away from."
)
STRENGTH = flags.DEFINE_float(
    "strength",
    0.6,
    "How much --mode=edit or vary changes the image, at least 0.01 and at most 1. 1 keeps nothing of it.",
)
SCALE = flags.DEFINE_float(
    "scale",
    0.6,
    "Width of the image as a share of the width of the result of --mode=outpaint, above 0 and below 1.",
)
RESAMPLINGS = flags.DEFINE_integer(
    "resamplings",
    4,
    "How often --mode=inpaint or outpaint visits each noise level (Lugmayr et al., 2022). With more visits, "
    "the new part fits the known part better, but drawing takes proportionally longer.",
    lower_bound=1,
    upper_bound=100,
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 4, "Number of results.", lower_bound=1, upper_bound=4096
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the first result.", lower_bound=0, upper_bound=MAX_SEED
)
OUTPUT = cli.define_path(
    "output",
    "edited.png",
    "A file that ends in .png, .jpg or .webp, or a folder, local or gs://bucket/path.",
)
flags.mark_flag_as_required("image")

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def main() -> None:
    _check_flags()
    image, mask = _read_inputs()
    model = cli.load_model(SAMPLING, [LABEL.value] if LABEL.value else [])
    images = _edit(model, image, mask)
    images.save(OUTPUT.value)
    print(f"drew {len(images)} image(s) into {OUTPUT.value}")


def _check_flags() -> None:
    """Raise UserError if flags are missing or contradict each other, or if --output cannot be written."""
    from t2i_tpu.storage import outputs

    mode = MODE.value
    for name in sorted(set().union(*_FLAGS.values()) - set(_FLAGS[mode])):
        if flags.FLAGS[name].present:
            modes = [other for other, names in _FLAGS.items() if name in names]
            raise UserError(
                f"--{name} has no effect with --mode={mode}; it is for --mode={' or '.join(modes)}"
            )
    # Check the prompt.
    if PROMPT.value is not None and LABEL.value is not None:
        raise UserError("--prompt and --label both say what to draw; give one of them")
    for flag in (PROMPT, LABEL):
        if flag.value is not None:
            with cli.name_flag(flag.name, flag.value):
                check_text(flag.value)
    if _get_prompt() is None and mode != "vary":
        raise UserError(
            f"--mode={mode} needs --prompt or, if the model was trained on classes, --label"
        )
    cli.check_guide(SAMPLING, [NEGATIVE_PROMPT])
    # Check the numbers.
    if not 0.01 <= STRENGTH.value <= 1:
        raise UserError(f"--strength={STRENGTH.value}: it must be at least 0.01 and at most 1")
    if not 0 < SCALE.value < 1:
        raise UserError(f"--scale={SCALE.value}: it must be above 0 and below 1")
    with cli.name_flag("seed", SEED.value):
        PromptRow("", NUM_IMAGES.value, SEED.value)
    # Check the output.
    check_ending("output", OUTPUT.value, _PICTURES, "a folder")
    if OUTPUT.value.lower().endswith(_PICTURES):
        outputs.check_file(OUTPUT.value, "--output=")
    else:
        outputs.check_folder(OUTPUT.value, "--output=")


def _get_prompt() -> str | None:
    return PROMPT.value if LABEL.value is None else LABEL.value


def _read_inputs() -> tuple:
    """Return the image and the mask in the model's size. The mask may be None."""
    from t2i_tpu.run import workdir as workdir_lib
    from t2i_tpu.sample.inputs import read_image, read_masked_image

    config, manifest = workdir_lib.read(SAMPLING["workdir"].value)
    size = config.data.image_size, manifest.channels
    if MODE.value == "inpaint":
        return read_masked_image(IMAGE.value, MASK.value, *size)
    return read_image(IMAGE.value, *size), None


def _edit(model: "t2i_tpu.Model", image, mask) -> "t2i_tpu.Images":
    """Return the results."""
    prompt, mode = _get_prompt(), MODE.value
    several = {"num_images": NUM_IMAGES.value, "seed": SEED.value}
    negative = {"negative_prompt": NEGATIVE_PROMPT.value}
    if mode == "edit":
        return model.edit(image, prompt, STRENGTH.value, **several, **negative)
    if mode == "vary":
        return model.vary(image, prompt, STRENGTH.value, **several)
    if mode == "inpaint":
        return model.inpaint(image, mask, prompt, RESAMPLINGS.value, **several, **negative)
    if mode == "outpaint":
        more = {"resamplings": RESAMPLINGS.value, **several, **negative}
        return model.outpaint(image, prompt, SCALE.value, **more)
    # Settings that are given as flags replace the defaults of an inversion.
    names = model.config.sample.__dataclass_fields__
    given = {name: SAMPLING[name].value for name in names if SAMPLING[name].value is not None}
    inversion = model.invert(image, prompt, **given)
    print(
        f"the image drawn from the noise differs from the given one by {inversion.error:.2f} out of 255 on average"
    )
    return inversion.images


if __name__ == "__main__":
    cli.run(main)
