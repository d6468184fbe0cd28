"""Check a data set.

  python launch/audit_data.py data/photos --html=report.html

The audit reads the complete data set. It compares the shards with the manifest, and looks for flaws
in captions and embeddings and for duplicate images, both within a split and between the held-out and
the training images. The exit code is 1 if there are problems. --repair moves bad shards to
quarantine/ and removes them from the manifest.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import importlib.util

from absl import flags

from t2i_tpu import cli

HTML = cli.define_path("html", None, "File for an HTML report with a contact sheet.")
REPAIR = flags.DEFINE_boolean(
    "repair", False, "Move bad shards to quarantine/ and remove them from the manifest."
)
NEAR_DUPLICATES = flags.DEFINE_integer(
    "near_duplicates",
    None,
    "Two images are near-duplicates if their perceptual hashes differ in at most this many of 64 "
    "bits. Default: 2 if imagehash (extra prepare) is installed; otherwise, only equal images are found.",
    lower_bound=0,
    upper_bound=15,
)


def main(folder: str) -> int:
    from t2i_tpu.data import audit, audit_report, repair
    from t2i_tpu.storage import outputs

    if HTML.value:
        outputs.check_file(HTML.value, "--html=")
    near_duplicates = NEAR_DUPLICATES.value
    if near_duplicates is None and importlib.util.find_spec("imagehash"):
        near_duplicates = 2
    result = audit.audit(folder, near_duplicates)
    print(audit_report.to_text(folder, result))
    if HTML.value:
        outputs.write_file(HTML.value, audit_report.to_html(folder, result).encode())
    num_problems = len(result.problems)
    if REPAIR.value and result.bad_shards:
        print("\n".join(repair.repair(folder, result)))
        num_problems -= len(result.bad_shards)
    return 1 if num_problems else 0


if __name__ == "__main__":
    cli.run(main, positional="PATH")
