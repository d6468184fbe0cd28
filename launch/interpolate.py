"""Interpolate between prompts, between seeds, or between both.

  python launch/interpolate.py --workdir=runs/emoji32 --prompt="red heart" --prompt=pizza
  python launch/interpolate.py --workdir=runs/emoji32 --prompt="dog face" --seed=0 --seed=1 --seed=2 \\
      --output=dogs.gif

Repeat --prompt (or --label, if the model was trained on classes), --seed, or both. Each of them is a key
point, and --frames is the number of frames from one key point to the next. With several prompts and
several seeds, key point i has prompt i and seed i.

If --output ends in .gif, .webp or .mp4, the frames become an animation that runs forward and back. In a
.png or .jpg, they are side by side. --layout=grid draws a row of frames between the prompts for each seed.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

import t2i_tpu
from t2i_tpu import cli
from t2i_tpu.api.prompt_rows import check_text
from t2i_tpu.config import MAX_SEED
from t2i_tpu.diffusion.interpolation import METHODS
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

SAMPLING = cli.define_sampling()
PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to draw at a key point. May be repeated.")
LABEL = flags.DEFINE_multi_string(
    "label", [], "Name or number of the class to draw at a key point. May be repeated."
)
SEED = flags.DEFINE_multi_integer(
    "seed",
    [0],
    "Seed of all key points. If it is repeated, each one is the seed of a key point.",
    lower_bound=0,
    upper_bound=MAX_SEED,
)
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", "", "Text or class that guidance steers away from."
)
FRAMES = flags.DEFINE_integer(
    "frames",
    9,
    "Number of frames from each key point to the next, including both.",
    lower_bound=2,
    upper_bound=1000,
)
METHOD = flags.DEFINE_enum(
    "method",
    "spherical",
    list(METHODS),
    "How to interpolate noise and embeddings. spherical keeps their length.",
)
LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    ["strip", "grid"],
    "How a picture shows the frames. strip, the default, shows all frames side by side. grid shows a row of "
    "captioned frames between the prompts for each --seed.",
)
FRAMES_PER_SECOND = flags.DEFINE_float(
    "frames_per_second", 12.5, "Speed of an animation.", lower_bound=0.1, upper_bound=60
)
OUTPUT = cli.define_path(
    "output",
    "interpolation.png",
    "A file that ends in .png, .jpg, .gif, .webp or .mp4, local or gs://bucket/path.",
)

_PICTURES = (".png", ".jpg", ".jpeg")
_ANIMATIONS = (".gif", ".webp", ".mp4")


def main() -> None:
    from t2i_tpu.sample.images import join_images

    prompts = PROMPT.value + LABEL.value
    _check_flags(prompts)
    model = cli.load_model(SAMPLING, LABEL.value)
    is_grid = LAYOUT.value == "grid"
    paths = [
        model.interpolate(
            *prompts,
            frames=FRAMES.value,
            seed=seed,
            method=METHOD.value,
            negative_prompt=NEGATIVE_PROMPT.value,
        )
        for seed in (SEED.value if is_grid else [SEED.value])
    ]
    images = join_images(paths)
    images.save(
        OUTPUT.value,
        LAYOUT.value,
        columns=len(paths[0]),
        frames_per_second=FRAMES_PER_SECOND.value,
    )
    _report(model, paths)
    print(f"drew {len(images)} frames into {OUTPUT.value}")


def _check_flags(prompts: list[str]) -> None:
    """Raise UserError if flags are missing or contradict each other, or if --output cannot be written."""
    from t2i_tpu.sample import animations
    from t2i_tpu.storage import outputs

    for flag in (PROMPT, LABEL):
        for text in flag.value:
            with cli.name_flag(flag.name, text):
                check_text(text)
    _check_key_points(prompts)
    cli.check_guide(SAMPLING, [NEGATIVE_PROMPT])
    # Check the output.
    path = OUTPUT.value.lower()
    check_ending("output", OUTPUT.value, _PICTURES + _ANIMATIONS)
    if path.endswith((".gif", ".mp4")) and LAYOUT.value:
        raise UserError(
            f"--layout={LAYOUT.value} is for pictures, but --output={OUTPUT.value} is an animation; leave out "
            "--layout, or use .png"
        )
    is_animation = path.endswith(_ANIMATIONS) and not LAYOUT.value
    if not is_animation and flags.FLAGS["frames_per_second"].present:
        raise UserError(
            f"--frames_per_second={FRAMES_PER_SECOND.value} is for animations, but --output={OUTPUT.value} is "
            "a picture; use .gif, .webp or .mp4"
        )
    if path.endswith(".mp4"):
        with cli.name_flag("output", OUTPUT.value):
            animations.import_av()
    outputs.check_file(OUTPUT.value, "--output=")


def _check_key_points(prompts: list[str]) -> None:
    """Raise UserError if the prompts and seeds do not define key points."""
    num_prompts, num_seeds = len(prompts), len(SEED.value)
    if LAYOUT.value == "grid":
        if num_prompts < 2:
            raise UserError("--layout=grid needs two prompts or more; give --prompt several times")
    elif not num_prompts or max(num_prompts, num_seeds) < 2:
        raise UserError(
            "give --prompt (or --label) twice or more to interpolate between prompts, or give it once and "
            "--seed twice or more to interpolate between seeds"
        )
    elif num_prompts > 1 and num_seeds > 1 and num_prompts != num_seeds:
        raise UserError(
            f"there are {num_prompts} prompts and {num_seeds} seeds; give as many of each, or only one of either"
        )


def _report(model: "t2i_tpu.Model", paths: "list[t2i_tpu.Images]") -> None:
    """Print how evenly the frames change."""
    from t2i_tpu.api.smoothness import measure_largest_step

    if figure := measure_largest_step(model, *paths):
        print(
            f"the largest change from one frame to the next is {figure:.1f} times the mean change (1.0 is "
            "even)"
        )


if __name__ == "__main__":
    cli.run(main)
