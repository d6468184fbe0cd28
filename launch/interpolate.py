"""Interpolate between two prompts, or between two seeds of one prompt.

  python launch/interpolate.py --workdir=runs/emoji32 --from_prompt="red heart" --to_prompt="pizza"
  python launch/interpolate.py --workdir=runs/emoji32 --mode=noise --from_prompt="dog face" \\
      --from_seed=0 --to_seed=1 --output=dogs.gif

The interpolation is spherical. If --output ends in .gif, the frames become an animation that runs
forward and back. Otherwise they are placed side by side in one picture.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import numpy as np
from absl import flags

from t2i_tpu import cli
from t2i_tpu.config import MAX_SEED
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import check_ending

SAMPLING = cli.define_sampling()
MODE = flags.DEFINE_enum(
    "mode",
    "embedding",
    ["embedding", "noise"],
    "What to interpolate between: embedding means two prompts, noise means two seeds.",
)
FROM_PROMPT = flags.DEFINE_string("from_prompt", None, "Prompt of the first frame.")
TO_PROMPT = flags.DEFINE_string(
    "to_prompt", None, "Prompt of the last frame, for --mode=embedding."
)
LABEL = flags.DEFINE_string(
    "label", None, "Class to draw if the model was trained on classes, for --mode=noise."
)
FROM_SEED = flags.DEFINE_integer(
    "from_seed", 0, "Seed of the first frame.", lower_bound=0, upper_bound=MAX_SEED
)
TO_SEED = flags.DEFINE_integer(
    "to_seed",
    None,
    "Seed of the last frame, for --mode=noise.",
    lower_bound=0,
    upper_bound=MAX_SEED,
)
FRAMES = flags.DEFINE_integer(
    "frames",
    9,
    "Number of frames, including the first and the last.",
    lower_bound=2,
    upper_bound=1000,
)
OUTPUT = cli.define_path(
    "output", "interpolation.png", "A .png or .gif file, local or gs://bucket/path."
)


def main() -> None:
    from t2i_tpu.sample.trained import load_trained

    _check_flags()
    model = load_trained(**cli.get_values(SAMPLING))
    if MODE.value == "embedding":
        conditions, noise = _interpolate_prompts(model), None
    else:
        conditions, noise = _interpolate_seeds(model)
    seeds = np.full(FRAMES.value, FROM_SEED.value)
    images = model.generator.draw(conditions, seeds, noise)
    _save(images)
    print(f"drew {len(images)} frames into {OUTPUT.value}")


def _check_flags() -> None:
    """Raise UserError if --mode needs a flag that is missing, or if --output cannot be written."""
    from t2i_tpu.storage import outputs

    if MODE.value == "embedding":
        if not (FROM_PROMPT.value and TO_PROMPT.value):
            raise UserError("--mode=embedding needs --from_prompt and --to_prompt")
    elif TO_SEED.value is None or not (FROM_PROMPT.value or LABEL.value):
        raise UserError("--mode=noise needs --to_seed, and --from_prompt or --label")
    check_ending("output", OUTPUT.value, (".png", ".gif"))
    outputs.check_file(OUTPUT.value, "--output=")


def _interpolate_prompts(model) -> dict[str, np.ndarray]:
    """Return the condition of each frame between two prompts."""
    from t2i_tpu.diffusion.interpolation import slerp

    if not model.conditioning.can_interpolate:
        raise UserError(
            f"a model with conditioning={model.config.model.conditioning} cannot interpolate between "
            "prompts; interpolate between two seeds: --mode=noise --from_seed=0 --to_seed=1"
        )
    ends = model.make_conditions([FROM_PROMPT.value, TO_PROMPT.value])
    return {name: slerp(*values, FRAMES.value) for name, values in ends.items()}


def _interpolate_seeds(model) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the condition and the initial noise of each frame between two seeds."""
    from t2i_tpu.diffusion.interpolation import slerp

    prompts = [FROM_PROMPT.value] if FROM_PROMPT.value else []
    labels = [LABEL.value] if LABEL.value else []
    condition = model.make_conditions(prompts, labels)
    conditions = {name: np.repeat(value, FRAMES.value, axis=0) for name, value in condition.items()}
    noise = slerp(*model.generator.initial_noise([FROM_SEED.value, TO_SEED.value]), FRAMES.value)
    return conditions, noise


def _save(images: np.ndarray) -> None:
    """Write the frames, uint8 [frames, H, W, C], as an animation or as a strip."""
    from t2i_tpu.sample.images import Images

    Images(images, [{}] * len(images), is_animation=True).save(OUTPUT.value)


if __name__ == "__main__":
    cli.run(main)
