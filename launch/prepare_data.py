"""Captioned images -> a data set that training reads, on disk or on Cloud Storage.

  python launch/prepare_data.py --source=folder:photos --output=data/photos
  python launch/train.py --config=configs/clip64.py --config.data.source=shards:data/photos

--source  folder:PATH         images with .txt beside them, or a metadata.jsonl / captions.csv
          webdataset:PATTERN  tar shards; img2dataset writes them
          parquet:PATTERN     columns of image bytes and captions; Hugging Face's convention
          npy:PATH            imgs.npy, captions.csv and perhaps embeddings.npy
          urls:PATTERN        parquet lists of URLs and captions, LAION's; by img2dataset
          idx:PATH            the four files of MNIST or its like
          tfds:NAME[@DIR]     a classification data set of tensorflow-datasets

Every example ends in one outcome, which the manifest counts; losses.csv names those left out.
Killed at any time, the same command goes on. The number of workers does not change a byte.
"""

import dataclasses
import functools
import os

from absl import flags

from t2i_tpu import cli
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.errors import UserError

SOURCE = flags.DEFINE_string("source", None, "KIND:PATH, see above; PATH may be gs://.")
OUTPUT = flags.DEFINE_string("output", None, "New folder, or gs://bucket/path.")
ENCODER = flags.DEFINE_string(
    "encoder",
    "embedded",
    "embedded (small, ships), NAME/TAG or NAME:CHECKPOINT of open_clip (ViT-L-14/openai), or none: "
    "keep what came with the data (none:ViT-L-14/openai says who made it).",
)
SEQUENCE = flags.DEFINE_boolean(
    "sequence", False, "Store the encoder's state of every token too; takes much more space."
)
EXPORT_TEXT_TOWER = flags.DEFINE_boolean(
    "export_text_tower",
    False,
    "Put the encoder's text tower beside the shards, so that sampling needs neither torch nor a hub.",
)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels of a side.", lower_bound=4)
CROP = flags.DEFINE_string("crop", "center", "center, or none: the whole image, white beside it.")
CHANNELS = flags.DEFINE_integer("channels", 3, "3, or 1 for grey.")
HELDOUT_SHARE = flags.DEFINE_float("heldout_share", 0.01, "Kept from training, by key.")
NUM_STREAMS = flags.DEFINE_integer(
    "num_streams", 16, "Must divide the global batch, and hosts it.", lower_bound=1
)
SHARD_SIZE = flags.DEFINE_integer("shard_size", 1024, "Examples of a shard.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the order and of what is held out.", lower_bound=0)
RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "beam"], "beam: Apache Beam, whose own options follow after --."
)
WORKERS = flags.DEFINE_integer(
    "workers", None, "Processes of --runner=local; default: one a core.", lower_bound=1
)
_DEFINE = {"int": flags.DEFINE_integer, "float": flags.DEFINE_float, "str": flags.DEFINE_string}
FILTERS = [
    (_DEFINE | {"bool": flags.DEFINE_boolean})[str(one.type).split(" ")[0]](
        one.name, None, one.metadata["help"]
    )
    for one in dataclasses.fields(Filters)
]
flags.mark_flags_as_required(["source", "output"])


def main(*beam_options: str) -> None:
    from t2i_tpu.data.prepare.run import prepare
    from t2i_tpu.data.prepare.settings import Settings

    settings = Settings(
        source=SOURCE.value,
        encoder=ENCODER.value,
        sequence=SEQUENCE.value,
        export_text_tower=EXPORT_TEXT_TOWER.value,
        image_size=IMAGE_SIZE.value,
        channels=CHANNELS.value,
        crop=CROP.value,
        filters=Filters(**{one.name: one.value for one in FILTERS}),
        heldout_share=HELDOUT_SHARE.value,
        seed=SEED.value,
        num_streams=NUM_STREAMS.value,
        shard_size=SHARD_SIZE.value,
    )
    output = os.path.expanduser(OUTPUT.value)
    manifest = prepare(settings, output, runner(settings, output, beam_options))
    for outcome, count in manifest.preparation["outcomes"].items():
        print(f"{count:10d} {outcome}")
    if manifest.preparation["captions_cut"]:
        print(f"{manifest.preparation['captions_cut']:10d} captions were cut for the encoder")
    print(f"{output} is whole: --config.data.source=shards:{output}")


def runner(settings, output, beam_options):
    """Who does the units, as `prepare` takes it."""
    if RUNNER.value == "beam":
        if WORKERS.value:
            raise UserError("--workers is of --runner=local; Beam's own options follow after --")
        from t2i_tpu.data.prepare import beam

        pipeline = beam.make_pipeline(beam_options, settings.source, output)
        return functools.partial(beam.do_units, pipeline=pipeline)
    if beam_options:
        raise UserError(f"{beam_options[0]} after -- is Apache Beam's; it needs --runner=beam")
    from t2i_tpu.data.prepare import pool

    workers = WORKERS.value or len(os.sched_getaffinity(0))
    return functools.partial(pool.do_units, workers=workers)


if __name__ == "__main__":
    cli.run(main, takes_rest=True)
