"""Compares reading and preparing data with t2i_tpu, webdataset, tfds and the baseline's method.

  python benchmarks/data.py --folder=/tmp/bench     # about 10 minutes; needs the extras dev and data

All methods use the same images. Every measurement runs in a separate process that is bound to one or
two cores, which requires Linux, and the methods alternate. Wall time is the time that a user waits.
Processor time is also given, because it does not depend on other programs on the machine. There are
two tasks:

read     reads shuffled batches of 64 images of 64x64 pixels with embeddings of 768 numbers. The files
         are in the page cache
prepare  converts JPEG files of 256x256 pixels with captions to the format that the method reads, at
         64x64 pixels
"""

import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.data_inputs import NUM_FILES, NUM_IMAGES, make_inputs

FOLDER = flags.DEFINE_string(
    "folder", None, "Folder for inputs and outputs. It needs a few GB.", required=True
)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements per case. Their median is printed.")
SINGLE = flags.DEFINE_string(
    "single", None, "TASK/METHOD/CORES. Make this single measurement and print it as JSON."
)

BATCH = 64


def main(_):
    folder = pathlib.Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    if SINGLE.value:
        task, method, cores = SINGLE.value.split("/")
        print(json.dumps(measure_here(folder, task, method, int(cores))))
        return
    make_inputs(folder)
    cases = [
        (task, method, cores)
        for task, methods in METHODS.items()
        for cores in (1, 2)
        for method in methods
    ]
    results = {case: [] for case in cases}
    for _ in range(ROUNDS.value):
        for case in cases:
            results[case].append(measure_in_process(folder, case))
    print("| task | method | cores | examples/s | processor microseconds per example |")
    print("|---|---|---|---|---|")
    for (task, method, cores), measurements in results.items():
        wall, cpu = map(statistics.median, zip(*measurements, strict=True))
        print(f"| {task} | {method} | {cores} | {wall:,.0f} | {cpu * 1e6:,.1f} |")


def measure_here(folder: pathlib.Path, task: str, method: str, cores: int) -> tuple[float, float]:
    """Bind this process to some cores and measure a method in it.

    Returns:
      The number of examples per second, and the processor seconds per example.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    return METHODS[task][method](folder, cores)


def measure_in_process(folder: pathlib.Path, case: tuple[str, str, int]) -> tuple[float, float]:
    """Return the result of `measure_here` in a separate process."""
    single = "/".join(map(str, case))
    command = [sys.executable, __file__, f"--folder={folder}", f"--single={single}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure_reading(batches, warm_up: int = 60, count: int = 400) -> tuple[float, float]:
    """Return (examples per second, processor seconds per example) of an iterator of batches."""
    for _ in range(warm_up):
        next(batches)
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    wall, cpu = time.perf_counter() - wall_start, time.process_time() - cpu_start
    num_examples = count * BATCH
    return num_examples / wall, cpu / num_examples


def read_ours(folder, cores):
    from t2i_tpu.data.reader import open_dataset

    dataset = open_dataset(str(folder / "shards"), "embedding", 64)
    return measure_reading(iter(dataset.batches(0, BATCH, BATCH)))


def read_webdataset(folder, cores):
    """Read in one process. torch's DataLoader uses more, at the same cost per example."""
    import glob

    import webdataset

    shards = sorted(glob.glob(f"{folder}/tars/*.tar"))
    data = webdataset.WebDataset(shards, shardshuffle=len(shards), resampled=True)
    data = data.shuffle(1000).decode("rgb8").to_tuple("png", "npy").batched(BATCH)
    return measure_reading(iter(data), count=100)


def read_tfds(folder, cores):
    import tensorflow_datasets as tfds

    data = tfds.load("bench", data_dir=folder / "tfds", split="train", shuffle_files=True)
    data = data.repeat().shuffle(1000).batch(BATCH).prefetch(4)
    return measure_reading(iter(data), count=200)


def read_baseline(folder, cores):
    """Load everything into memory, gather rows and convert images to floats in [-1, 1]."""
    images, embeddings = np.load(folder / "imgs.npy"), np.load(folder / "embeddings.npy")

    def make_batches():
        order, rows = np.arange(NUM_IMAGES), []
        while True:
            np.random.shuffle(order)
            for row in order:
                rows.append(row)
                if len(rows) == BATCH:
                    floats = images[rows].astype("float32") / 255.0 * 2 - 1
                    yield floats, embeddings[rows]
                    rows = []

    return measure_reading(make_batches())


def measure_preparing(folder, method, prepare) -> tuple[float, float]:
    """Return (files per second, processor seconds per file) of `prepare(output)`.

    The processor time includes child processes that have ended.
    """
    output = folder / f"out-{method}"
    shutil.rmtree(output, ignore_errors=True)
    start, before = time.perf_counter(), os.times()
    prepare(output)
    after, wall = os.times(), time.perf_counter() - start
    cpu = sum(after[:4]) - sum(before[:4])
    return NUM_FILES / wall, cpu / NUM_FILES


def read_pictures(folder):
    """Yield the key, uint8 [64, 64, 3] and caption of each file to prepare."""
    for path in sorted((folder / "files").glob("*.jpg")):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        yield path.stem, np.asarray(small), path.with_suffix(".txt").read_text()


def prepare_ours(folder, cores):
    from t2i_tpu.data.prepare import pool
    from t2i_tpu.data.prepare.run import prepare
    from t2i_tpu.data.prepare.settings import Settings

    settings = Settings(f"folder:{folder}/files", encoder="none", heldout_share=0.0)
    process_units = functools.partial(pool.process_units, workers=cores)

    def run(output):
        prepare(settings, str(output), process_units)

    return measure_preparing(folder, "ours", run)


def prepare_webdataset(folder, cores):
    import webdataset

    def run(output):
        output.mkdir()
        with webdataset.ShardWriter(f"{output}/%04d.tar", maxcount=1000, verbose=0) as writer:
            for key, image, caption in read_pictures(folder):
                writer.write({"__key__": key, "png": image, "txt": caption})

    return measure_preparing(folder, "webdataset", run)


def prepare_tfds(folder, cores):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    kinds = {"image": tf.TensorSpec((64, 64, 3), tf.uint8), "caption": tf.TensorSpec((), tf.string)}
    features = {"image": tfds.features.Image(shape=(64, 64, 3)), "caption": tfds.features.Text()}

    def run(output):
        rows = ({"image": image, "caption": caption} for _, image, caption in read_pictures(folder))
        data = tf.data.Dataset.from_generator(lambda: rows, output_signature=kinds)
        tfds.dataset_builders.store_as_tfds_dataset(
            "made",
            "1.0.0",
            data_dir=output,
            split_datasets={"train": data},
            features=tfds.features.FeaturesDict(features),
        )

    return measure_preparing(folder, "tfds", run)


def prepare_baseline(folder, cores):
    """Collect all images in a list and save them as one array."""

    def run(output):
        output.mkdir()
        rows = list(read_pictures(folder))
        np.save(output / "imgs.npy", np.array([image for _, image, _ in rows]))
        (output / "captions.csv").write_text("0\n" + "\n".join(caption for _, _, caption in rows))

    return measure_preparing(folder, "baseline", run)


METHODS = {
    "read": {
        "ours": read_ours,
        "webdataset": read_webdataset,
        "tfds": read_tfds,
        "baseline (in memory)": read_baseline,
    },
    "prepare": {
        "ours": prepare_ours,
        "webdataset": prepare_webdataset,
        "tfds": prepare_tfds,
        "baseline (in memory)": prepare_baseline,
    },
}

if __name__ == "__main__":
    app.run(main)
