"""Evaluate a trained model and write a report.

  python launch/evaluate.py --workdir=runs/emoji32

It draws images for training and held-out prompts, compares them with the real images, and writes
report.json, report.html and guess.html into --output. docs/evaluation.md explains every figure.

guess.html shows pairs of a drawn and a real image. Open it, choose the real ones, save your answers, and
score them with --score_sheet=answers.json and the same --output.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
import posixpath
import tempfile

from absl import flags, logging

import t2i_tpu
from t2i_tpu import cli

SAMPLING = cli.define_sampling()
OUTPUT = cli.define_path(
    "output", None, "Folder of the report, local or gs://. The default is WORKDIR/report."
)
SOURCE = flags.DEFINE_string(
    "source",
    None,
    "The data set that the model was trained on, as in config.data.source. The default is the value in "
    "the model's config.",
)
EXTRACTOR = flags.DEFINE_string(
    "extractor",
    "auto",
    "Network that extracts the features of images: embedded, fashion_mnist, inception:FILE, or a model "
    "of open_clip, such as ViT-B-32/openai. auto chooses one that suits the data set.",
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 250, "Number of images to draw for each split and set.", lower_bound=20
)
NUM_SETS = flags.DEFINE_integer(
    "num_sets",
    3,
    "Number of sets of images, which differ in their seeds. The spread of a figure is its standard "
    "deviation over the sets.",
    lower_bound=1,
    upper_bound=100,
)
MAX_REAL = flags.DEFINE_integer(
    "max_real", 50_000, "Maximum number of real images to read from a split.", lower_bound=20
)
SCORE_SHEET = cli.define_path(
    "score_sheet",
    None,
    "File of answers saved by guess.html. It is scored with the report in --output; no images are drawn.",
    is_output=False,
)

# Number of images that each replica draws at once. A CPU is not faster with more.
_BATCH_SIZE = 32


def main() -> None:
    from t2i_tpu.evaluate.distances.find import list_distances

    list_distances()  # raises UserError if the extra `evaluate` is missing
    from t2i_tpu.evaluate.report import files as report_files

    output = OUTPUT.value or posixpath.join(SAMPLING["workdir"].value, "report")
    if SCORE_SHEET.value:
        print(report_files.score(output, SCORE_SHEET.value))
        return
    report_files.check(output)
    for path in report_files.write(output, _evaluate()):
        print(path)


def _evaluate():
    """Draw the images and measure them; return the `Evaluation`."""
    from t2i_tpu.data.locate import locate
    from t2i_tpu.data.reader import open_dataset
    from t2i_tpu.evaluate import evaluation
    from t2i_tpu.evaluate.extractors.choose import choose_spec, make_extractor
    from t2i_tpu.evaluate.splits import Settings
    from t2i_tpu.run import workdir as workdir_lib

    # Check everything that can be checked before the model is loaded.
    config, manifest = workdir_lib.read(SAMPLING["workdir"].value)
    spec = choose_spec(manifest) if EXTRACTOR.value == "auto" else EXTRACTOR.value
    extractor = make_extractor(spec)
    dataset = open_dataset(
        locate(SOURCE.value or config.data.source),
        config.model.conditioning,
        config.data.image_size,
        config.data.on_damage,
    )
    evaluation.check(dataset, manifest, SAMPLING["workdir"].value, extractor)
    model = t2i_tpu.load(**cli.get_values(SAMPLING), per_replica_batch_size=_BATCH_SIZE).trained
    logging.info("extracting features with %s", spec)
    settings = Settings(NUM_IMAGES.value, NUM_SETS.value, MAX_REAL.value)
    with tempfile.TemporaryDirectory(prefix="t2i_tpu-evaluate-") as folder:
        return evaluation.evaluate(model, dataset, extractor, settings, folder)


if __name__ == "__main__":
    cli.run(main)
