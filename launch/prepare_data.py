"""Prepare captioned images as a data set for training, on disk or on Cloud Storage.

  python launch/prepare_data.py --source=folder:photos --output=data/photos
  python launch/train.py --config=configs/clip64.py --config.data.source=shards:data/photos

--source  folder:PATH         images with captions in .txt files, or in a table such as metadata.csv
          webdataset:PATTERN  tar shards, for example from img2dataset
          parquet:PATTERN     columns of image bytes and captions, as on the Hugging Face Hub
          npy:PATH            imgs.npy, captions.csv and optionally embeddings.npy
          urls:PATTERN        parquet lists of URLs and captions (LAION); img2dataset downloads them
          idx:PATH            the four files of MNIST or a data set in its format
          tfds:NAME[@DIR]     a classification data set of tensorflow-datasets

Every example has exactly one outcome: it is in a split, or it is rejected for one cause. The manifest
counts the outcomes, and rejected.csv lists the rejected examples. If the command is killed, run it
again to resume. The result does not depend on the number of workers.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import dataclasses
import functools
import shlex

from absl import flags

from t2i_tpu import cli, installed
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError
from t2i_tpu.flag_values import define_option


def define_flags(group: type) -> dict[str, flags.FlagHolder]:
    """Define a flag for each option of a dataclass, except for options in nested groups."""
    fields = dataclasses.fields(group)
    return {each.name: define_option(each) for each in fields if "help" in each.metadata}


SETTINGS = define_flags(Settings)
FILTERS = define_flags(Filters)
OUTPUT = cli.define_path("output", None, "New folder for the data set, local or gs://bucket/path.")
RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "beam"],
    "How to process the images: local (in processes on this machine), or beam (with Apache Beam, "
    "whose own options follow after --).",
)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Number of processes with --runner=local. Default: the number of CPU cores.",
    lower_bound=1,
    upper_bound=1024,
)
flags.mark_flags_as_required(["source", "output"])


def main(*beam_options: str) -> None:
    from t2i_tpu.data.prepare.run import prepare

    filters = Filters(**cli.get_values(FILTERS))
    settings = Settings(**cli.get_values(SETTINGS), filters=filters)
    output = OUTPUT.value
    process_units = make_runner(settings, output, beam_options)
    preparation = prepare(settings, output, process_units).preparation
    for outcome, count in preparation["outcomes"].items():
        print(f"{count:10d} {outcome}")
    if num_cut := preparation["captions_cut"]:
        print(f"{num_cut:10d} captions were cut to fit the encoder")
    source = shlex.quote(f"--config.data.source=shards:{output}")
    print(f"Data set written to {output}. Train with {source}")


def make_runner(settings: Settings, output: str, beam_options: tuple[str, ...]):
    """Return the runner that --runner selects, as an argument for `prepare`."""
    if RUNNER.value == "beam":
        if WORKERS.value:
            raise UserError(
                "--workers works only with --runner=local; give Beam's own options after --"
            )
        from t2i_tpu.data.prepare import beam

        pipeline = beam.make_pipeline(beam_options, settings.source, output)
        return functools.partial(beam.process_units, pipeline=pipeline)
    if beam_options:
        raise UserError(
            f"{beam_options[0]} after -- is for Apache Beam; add --runner=beam, or leave out the option"
        )
    from t2i_tpu.data.prepare import pool

    workers = WORKERS.value or installed.count_cores()
    return functools.partial(pool.process_units, workers=workers)


if __name__ == "__main__":
    cli.run(main, takes_rest=True)
