"""Copy a data set to or from gs://:

  python launch/copy_data.py --source=data/birds --output=gs://bucket/birds

Files go in parallel and checked. Run the same command again to go on where it stopped: what is
there with an equal checksum is not copied again.
"""

from absl import flags

from t2i_tpu import cli

SOURCE = flags.DEFINE_string("source", None, "Folder of shards, here or on gs://.")
OUTPUT = flags.DEFINE_string("output", None, "Where to copy it, on gs:// or here.")
WORKERS = flags.DEFINE_integer("workers", 8, "Files under way at a time.", lower_bound=1)
flags.mark_flags_as_required(["source", "output"])


def main() -> None:
    from t2i_tpu.data.transfer import copy

    copied = copy(SOURCE.value, OUTPUT.value, WORKERS.value)
    print(
        f"{copied.files} files of {copied.num_bytes / 1e6:.1f} MB in {OUTPUT.value}, "
        f"{copied.present} of them there before"
    )


if __name__ == "__main__":
    cli.run(main)
