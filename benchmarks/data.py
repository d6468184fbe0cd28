"""Reading and preparing beside webdataset's, tfds's and the baseline's ways, on the same images.

  python benchmarks/data.py --folder=/tmp/bench        # some 10 minutes; needs extras dev and data

Every measurement is a process of its own, bound to one core or two; the ways take turns. Wall time
is what a user waits; processor time does not see what else the machine does.

read     batches of 64 images of 64x64 with an embedding of 768 numbers, shuffled, from a warm disk
prepare  JPEG files of 256x256 with captions -> what that way reads, at 64x64
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

FOLDER = flags.DEFINE_string("folder", None, "For inputs and outputs, a few GB.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Of which the median is told.")
ONE = flags.DEFINE_string("one", None, "TASK/WAY/CORES: one measurement, as JSON.")

COUNT, FILES, BATCH, DIM = 20_000, 1500, 64, 768


def main(_):
    folder = pathlib.Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    if ONE.value:
        task, way, cores = ONE.value.split("/")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
        print(json.dumps((READ if task == "read" else PREPARE)[way](folder, int(cores))))
        return
    make_inputs(folder)
    rows = [
        (task, way, cores)
        for task, ways in (("read", READ), ("prepare", PREPARE))
        for cores in (1, 2)
        for way in ways
    ]
    found = {row: [] for row in rows}
    for _ in range(ROUNDS.value):
        for row in rows:
            command = [
                sys.executable,
                __file__,
                f"--folder={folder}",
                f"--one={'/'.join(map(str, row))}",
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            found[row].append(json.loads(result.stdout.splitlines()[-1]))
    print(
        "| task | way | cores | examples/s | microseconds of a processor an example |\n|---|---|---|---|---|"
    )
    for (task, way, cores), results in found.items():
        wall, cpu = (statistics.median(result[i] for result in results) for i in (0, 1))
        print(f"| {task} | {way} | {cores} | {wall:,.0f} | {cpu * 1e6:,.1f} |")


def images() -> np.ndarray:
    """uint8 [COUNT, 64, 64, 3]: the emoji that ship, moved about until there are enough."""
    from t2i_tpu.data.locate import locate
    from t2i_tpu.data.reader import open_dataset

    some = open_dataset(locate("embedded:emoji"), "embedding", 64).examples("train", 2000)
    some = [one["image"] for one in some]
    return np.stack([np.roll(some[i % len(some)], i // len(some), 1) for i in range(COUNT)])


def make_inputs(folder: pathlib.Path) -> None:
    if (folder / "ready").exists():
        return
    import tensorflow as tf
    import tensorflow_datasets as tfds
    import webdataset

    from t2i_tpu.data.manifest import EmbeddingContract
    from t2i_tpu.data.records import Record
    from t2i_tpu.data.writer import write_dataset

    arrays, rng = images(), np.random.default_rng(0)
    embeddings = rng.normal(size=(COUNT, DIM)).astype(np.float32)
    np.save(folder / "imgs.npy", arrays)
    np.save(folder / "embeddings.npy", embeddings)
    records = (
        Record(f"{i:06d}", image, f"caption {i}", None, embedding)
        for i, (image, embedding) in enumerate(zip(arrays, embeddings, strict=True))
    )
    contract = EmbeddingContract("unknown", "", DIM, False)
    write_dataset(str(folder / "shards"), {"train": records}, name="bench", embedding=contract)
    (folder / "tars").mkdir()
    with webdataset.ShardWriter(f"{folder}/tars/%04d.tar", maxcount=1250, verbose=0) as writer:
        for i, (image, embedding) in enumerate(zip(arrays, embeddings, strict=True)):
            writer.write({"__key__": f"{i:06d}", "png": image, "npy": embedding})
    features = {
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "embedding": tfds.features.Tensor(shape=(DIM,), dtype=np.float32),
    }
    data = tf.data.Dataset.from_tensor_slices({"image": arrays, "embedding": embeddings})
    tfds.dataset_builders.store_as_tfds_dataset(
        "bench", "1.0.0", data_dir=folder / "tfds", split_datasets={"train": data},
        features=tfds.features.FeaturesDict(features),
    )  # fmt: skip
    (folder / "files").mkdir()
    for i in range(FILES):
        large = Image.fromarray(arrays[i]).resize((256, 256), Image.Resampling.BICUBIC)
        large.save(folder / "files" / f"{i:05d}.jpg", quality=90)
        (folder / "files" / f"{i:05d}.txt").write_text(f"caption {i}")
    (folder / "ready").touch()


def timed(batches, warm: int = 60, count: int = 400) -> tuple[float, float]:
    """(examples a second, processor seconds an example)."""
    for _ in range(warm):
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    total = count * BATCH
    return total / (time.perf_counter() - wall), (time.process_time() - cpu) / total


def read_ours(folder, cores):
    from t2i_tpu.data.reader import open_dataset

    return timed(
        iter(open_dataset(str(folder / "shards"), "embedding", 64).batches(0, BATCH, BATCH))
    )


def read_webdataset(folder, cores):
    """In one process: more of them are torch's DataLoader's, at the same cost an example."""
    import glob

    import webdataset

    shards = sorted(glob.glob(f"{folder}/tars/*.tar"))
    data = webdataset.WebDataset(shards, shardshuffle=len(shards), resampled=True)
    data = data.shuffle(1000).decode("rgb8").to_tuple("png", "npy").batched(BATCH)
    return timed(iter(data), count=100)


def read_tfds(folder, cores):
    import tensorflow_datasets as tfds

    data = tfds.load("bench", data_dir=folder / "tfds", split="train", shuffle_files=True)
    data = data.repeat().shuffle(1000).batch(BATCH).prefetch(4)
    return timed(iter(data), count=200)


def read_baseline(folder, cores):
    """Everything in memory; rows are gathered and made floats in [-1, 1]."""
    arrays, embeddings = np.load(folder / "imgs.npy"), np.load(folder / "embeddings.npy")

    def batches():
        order, some = np.arange(COUNT), []
        while True:
            np.random.shuffle(order)
            for index in order:
                some.append(index)
                if len(some) == BATCH:
                    floats = arrays[some].astype("float32") / 255.0 * 2 - 1
                    yield floats, embeddings[some]
                    some = []

    return timed(batches())


def measured(folder, way, work):
    """(files a second, processor seconds a file, workers of ours not included)."""
    output = folder / f"out-{way}"
    shutil.rmtree(output, ignore_errors=True)
    wall, before = time.perf_counter(), os.times()
    work(output)
    after, seconds = os.times(), time.perf_counter() - wall
    return FILES / seconds, sum(b - a for a, b in zip(before[:4], after[:4], strict=True)) / FILES


def pictures(folder):
    for path in sorted((folder / "files").glob("*.jpg")):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        yield path.stem, np.asarray(small), path.with_suffix(".txt").read_text()


def prepare_ours(folder, cores):
    from t2i_tpu.data.prepare import pool
    from t2i_tpu.data.prepare.run import prepare
    from t2i_tpu.data.prepare.settings import Settings

    settings = Settings(f"folder:{folder}/files", encoder="none", heldout_share=0.0)
    do_units = functools.partial(pool.process_units, workers=cores)
    return measured(folder, "ours", lambda output: prepare(settings, str(output), do_units))


def prepare_webdataset(folder, cores):
    import webdataset

    def work(output):
        output.mkdir()
        with webdataset.ShardWriter(f"{output}/%04d.tar", maxcount=1000, verbose=0) as writer:
            for key, image, caption in pictures(folder):
                writer.write({"__key__": key, "png": image, "txt": caption})

    return measured(folder, "webdataset", work)


def prepare_tfds(folder, cores):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    kinds = {"image": tf.TensorSpec((64, 64, 3), tf.uint8), "caption": tf.TensorSpec((), tf.string)}
    features = {"image": tfds.features.Image(shape=(64, 64, 3)), "caption": tfds.features.Text()}

    def work(output):
        rows = ({"image": image, "caption": caption} for _, image, caption in pictures(folder))
        data = tf.data.Dataset.from_generator(lambda: rows, output_signature=kinds)
        tfds.dataset_builders.store_as_tfds_dataset(
            "made", "1.0.0", data_dir=output, split_datasets={"train": data},
            features=tfds.features.FeaturesDict(features),
        )  # fmt: skip

    return measured(folder, "tfds", work)


def prepare_baseline(folder, cores):
    """All images in a list, then one array."""

    def work(output):
        output.mkdir()
        rows = list(pictures(folder))
        np.save(output / "imgs.npy", np.array([image for _, image, _ in rows]))
        (output / "captions.csv").write_text("0\n" + "\n".join(caption for _, _, caption in rows))

    return measured(folder, "baseline", work)


READ = {
    "ours": read_ours,
    "webdataset": read_webdataset,
    "tfds": read_tfds,
    "baseline (in memory)": read_baseline,
}
PREPARE = {
    "ours": prepare_ours,
    "webdataset": prepare_webdataset,
    "tfds": prepare_tfds,
    "baseline (in memory)": prepare_baseline,
}

if __name__ == "__main__":
    app.run(main)
