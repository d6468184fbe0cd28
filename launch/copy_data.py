"""Copy a data set to or from gs://.

  python launch/copy_data.py --source=data/birds --output=gs://bucket/birds

Files are copied in parallel and checked. If the copy is interrupted, run the same command again to
resume it: files that already exist in the output with the same checksum are not copied again.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

from t2i_tpu import cli

SOURCE = cli.define_path(
    "source", None, "Folder of the data set, local or on gs://.", is_output=False
)
OUTPUT = cli.define_path(
    "output", None, "Folder to copy to. Exactly one of --source and --output must be on gs://."
)
WORKERS = flags.DEFINE_integer(
    "workers", 8, "Number of files to copy at the same time.", lower_bound=1, upper_bound=1024
)
flags.mark_flags_as_required(["source", "output"])


def main() -> None:
    from t2i_tpu.data.transfer import copy

    result = copy(SOURCE.value, OUTPUT.value, WORKERS.value)
    print(
        f"{OUTPUT.value} has {result.files} files ({result.num_bytes / 1e6:.1f} MB); "
        f"{result.present} of them were already there"
    )


if __name__ == "__main__":
    cli.run(main)
