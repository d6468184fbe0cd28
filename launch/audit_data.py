"""Is a data set what its manifest says?  python launch/audit_data.py data/photos --html=report.html

It reads everything: shards against their hashes, captions, embeddings, duplicates within a split and
between held-out and training images. What it finds wrong makes it exit with 1. --repair moves bad
shards into quarantine/ and takes them out of the manifest.
"""

from absl import flags

from t2i_tpu import cli

HTML = flags.DEFINE_string("html", None, "File for a report with a contact sheet.")
REPAIR = flags.DEFINE_boolean("repair", False, "Quarantine bad shards.")
NEAR_DUPLICATES = flags.DEFINE_integer(
    "near_duplicates", 2, "Bits of 64 in which perceptual hashes of one image differ.", 0, 15
)


def main(folder: str) -> int:
    from t2i_tpu.data import audit, audit_report
    from t2i_tpu.storage import files

    found = audit.audit(folder, NEAR_DUPLICATES.value)
    print(audit_report.to_text(folder, found))
    if HTML.value:
        files.write(HTML.value, audit_report.to_html(folder, found))
    if REPAIR.value and found.bad_shards:
        print("\n".join(audit.repair(folder, found)))
        return int(len(found.problems) > len(found.bad_shards))
    return int(bool(found.problems))


if __name__ == "__main__":
    cli.run(main, positional="PATH")
