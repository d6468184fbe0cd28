"""Walk between two prompts, or between two seeds of one:

  python launch/interpolate.py --workdir=runs/emoji32 --from_prompt="red heart" --to_prompt="pizza"
  python launch/interpolate.py --workdir=runs/emoji32 --mode=noise --from_prompt="dog face" \\
      --from_seed=0 --to_seed=1 --output=dogs.gif

The way is spherical. The output is a strip of frames, or an animation where it ends in .gif.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from t2i_tpu import cli

SAMPLING = cli.define_sampling()
FROM_PROMPT = flags.DEFINE_string("from_prompt", None, "Prompt of the first frame.")
TO_PROMPT = flags.DEFINE_string("to_prompt", None, "Prompt of the last frame; mode embedding.")
LABEL = flags.DEFINE_string("label", None, "Class to draw, for a model of classes; mode noise.")
FROM_SEED = flags.DEFINE_integer("from_seed", 0, "Seed of the first frame.", lower_bound=0)
TO_SEED = flags.DEFINE_integer(
    "to_seed", None, "Seed of the last frame; mode noise.", lower_bound=0
)
MODE = flags.DEFINE_enum("mode", "embedding", ["embedding", "noise"], "What to walk through.")
FRAMES = flags.DEFINE_integer("frames", 9, "Both ends included.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", "interpolation.png", "A .png or a .gif.")


def main() -> None:
    import numpy as np

    from t2i_tpu.diffusion.interpolation import slerp
    from t2i_tpu.errors import UserError
    from t2i_tpu.sample import trained
    from t2i_tpu.sample.pictures import draw_strip, enlarge, save_picture

    by_embedding = MODE.value == "embedding"
    if by_embedding and not (FROM_PROMPT.value and TO_PROMPT.value):
        raise UserError("--mode=embedding needs --from_prompt and --to_prompt")
    if not by_embedding and (TO_SEED.value is None or not (FROM_PROMPT.value or LABEL.value)):
        raise UserError("--mode=noise needs --from_prompt (or --label), --from_seed and --to_seed")
    if not OUTPUT.value.lower().endswith((".png", ".gif")):
        raise UserError(f"--output={OUTPUT.value}: it must end in .png or .gif")
    model = trained.load_trained(**SAMPLING())
    frames = FRAMES.value
    if by_embedding:
        if not model.conditioning.can_interpolate:
            raise UserError(
                f"a model with conditioning={model.config.model.conditioning} cannot interpolate "
                "between prompts; interpolate between two seeds: "
                "--mode=noise --from_seed=0 --to_seed=1"
            )
        ends = model.make_conditions([FROM_PROMPT.value, TO_PROMPT.value])
        conditions = {name: slerp(*values, frames) for name, values in ends.items()}
        noise = None
    else:
        prompts, labels = ([word] if word else [] for word in (FROM_PROMPT.value, LABEL.value))
        condition = model.make_conditions(prompts, labels)
        conditions = {name: np.repeat(value, frames, axis=0) for name, value in condition.items()}
        noise = slerp(*model.generator.noise_of([FROM_SEED.value, TO_SEED.value]), frames)
    images = model.generator.draw(conditions, np.full(frames, FROM_SEED.value), noise)
    if OUTPUT.value.lower().endswith(".gif"):
        pictures = [enlarge(image) for image in (*images, *images[-2:0:-1])]  # there and back
        save_picture(pictures[0], OUTPUT.value, pictures[1:])
    else:
        save_picture(draw_strip(images), OUTPUT.value)
    print(f"drew {frames} frames into {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
