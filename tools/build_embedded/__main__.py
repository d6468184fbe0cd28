"""Builds the data set and the CLIP that ship with the package, in t2i_tpu/embedded.

It needs the extra `clip` (open_clip, torch) and onnx, onnxscript and pillow, some 20 minutes on two
cores, and three packages from npm:

  npm pack emoji-datasource-google@16.0.0 cldr-annotations-full@48.2.0 \\
      cldr-annotations-derived-full@48.2.0
  for name in emoji-datasource-google cldr-annotations-full cldr-annotations-derived-full; do
    mkdir $name && tar xzf $name-*.tgz -C $name --strip-components=1
  done
  OMP_NUM_THREADS=2 python tools/build_embedded/__main__.py --emoji_package=emoji-datasource-google \\
      --cldr_package=cldr-annotations-full,cldr-annotations-derived-full \\
      --output=t2i_tpu/embedded --reference=tests/text/clip_reference.npz

Stages, in this order; each needs the files of those before it:
  clip       trains the CLIP on the train split         -> OUTPUT/clip
  tune       its text tower for keywords                -> OUTPUT/clip
  recall     prints how well it finds images by text
  export     its text tower without torch               -> OUTPUT/clip/text_tower.onnx
  shards     images, captions, embeddings, tokens       -> OUTPUT/emoji (has to be absent)
  reference  open_clip's embeddings of odd prompts      -> REFERENCE, for the tests
"""

import os

import numpy as np
from absl import app, flags, logging

from tools.build_embedded import captions, splits

STAGES = ("clip", "tune", "recall", "export", "shards", "reference")

FLAGS = flags.FLAGS
flags.DEFINE_string("emoji_package", None, "Folder of npm's emoji-datasource-google.")
flags.DEFINE_list("cldr_package", None, "Folders of npm's cldr-annotations[-derived]-full.")
flags.DEFINE_string("output", None, "Folder to write clip/ and emoji/ into.")
flags.DEFINE_string("reference", "clip_reference.npz", "File for open_clip's values.")
flags.DEFINE_list("stages", list(STAGES), f"Some of {', '.join(STAGES)}.")
flags.DEFINE_integer("clip_steps", 900, "Steps of 512 images that CLIP is trained for.", 1)
flags.DEFINE_integer("tune_steps", 700, "Steps of 384 texts that its text tower is tuned for.", 1)
flags.mark_flags_as_required(["emoji_package", "cldr_package", "output"])
flags.register_validator("stages", lambda stages: set(stages) <= set(STAGES), "no such stage")


def main(_):
    emoji = captions.read_emoji(FLAGS.emoji_package, FLAGS.cldr_package)
    train, heldout = splits.split_emoji(emoji)
    logging.info("%d emoji to train on, %d held out", len(train), len(heldout))
    clip_folder = os.path.join(FLAGS.output, "clip")
    if set(FLAGS.stages) - {"shards"}:
        # torch has to come before tensorflow, and the shards can be written without it.
        from tools.build_embedded import clip_training, text_tuning
    from tools.build_embedded import dataset

    if "clip" in FLAGS.stages:
        clip_training.train(clip_folder, train, _images(train), num_steps=FLAGS.clip_steps)
    if "tune" in FLAGS.stages:
        text_tuning.tune(clip_folder, train, _images(train), num_steps=FLAGS.tune_steps)
    if "recall" in FLAGS.stages:
        for name, part in (("train", train), ("heldout", heldout)):
            logging.info("%s: %s", name, clip_training.recall(clip_folder, part, _images(part)))
    if "export" in FLAGS.stages:
        clip_training.export_text_tower(clip_folder)
    if "shards" in FLAGS.stages:
        folder = os.path.join(FLAGS.output, "emoji")
        dataset.write_shards(folder, clip_folder, FLAGS.emoji_package, train, heldout)
    if "reference" in FLAGS.stages:
        dataset.write_reference(FLAGS.reference, clip_folder, emoji)


def _images(emoji: list[captions.Emoji]) -> np.ndarray:
    return np.stack([captions.read_image(FLAGS.emoji_package, one) for one in emoji])


if __name__ == "__main__":
    app.run(main)
