"""Makes the inputs of benchmarks/data.py: the same images in the format of each method."""

import pathlib

import numpy as np
from PIL import Image

NUM_IMAGES = 20_000  # number of images to read
NUM_FILES = 1500  # number of files to prepare
DIM = 768  # width of an embedding


def make_images() -> np.ndarray:
    """Return uint8 [NUM_IMAGES, 64, 64, 3]: shifted copies of the embedded emoji."""
    from t2i_tpu.data.locate import locate
    from t2i_tpu.data.reader import open_dataset

    examples = open_dataset(locate("embedded:emoji"), "embedding", 64).examples("train", 2000)
    emoji = [example["image"] for example in examples]
    return np.stack([np.roll(emoji[i % len(emoji)], i // len(emoji), 1) for i in range(NUM_IMAGES)])


def make_inputs(folder: pathlib.Path) -> None:
    """Write the inputs of all methods, unless they exist already."""
    if (folder / "ready").exists():
        return
    images, rng = make_images(), np.random.default_rng(0)
    embeddings = rng.normal(size=(NUM_IMAGES, DIM)).astype(np.float32)
    np.save(folder / "imgs.npy", images)
    np.save(folder / "embeddings.npy", embeddings)
    write_ours(folder, images, embeddings)
    write_webdataset(folder, images, embeddings)
    write_tfds(folder, images, embeddings)
    write_files(folder, images)
    (folder / "ready").touch()


def write_ours(folder, images, embeddings):
    from t2i_tpu.data.manifest import EmbeddingContract
    from t2i_tpu.data.records import Record
    from t2i_tpu.data.writer import write_dataset

    records = (
        Record(f"{i:06d}", image, f"caption {i}", None, embedding)
        for i, (image, embedding) in enumerate(zip(images, embeddings, strict=True))
    )
    contract = EmbeddingContract("unknown", "", DIM, False)
    write_dataset(str(folder / "shards"), {"train": records}, name="bench", embedding=contract)


def write_webdataset(folder, images, embeddings):
    import webdataset

    (folder / "tars").mkdir()
    with webdataset.ShardWriter(f"{folder}/tars/%04d.tar", maxcount=1250, verbose=0) as writer:
        for i, (image, embedding) in enumerate(zip(images, embeddings, strict=True)):
            writer.write({"__key__": f"{i:06d}", "png": image, "npy": embedding})


def write_tfds(folder, images, embeddings):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "embedding": tfds.features.Tensor(shape=(DIM,), dtype=np.float32),
    }
    data = tf.data.Dataset.from_tensor_slices({"image": images, "embedding": embeddings})
    tfds.dataset_builders.store_as_tfds_dataset(
        "bench",
        "1.0.0",
        data_dir=folder / "tfds",
        split_datasets={"train": data},
        features=tfds.features.FeaturesDict(features),
    )


def write_files(folder, images):
    """Write the JPEG files and captions to prepare."""
    (folder / "files").mkdir()
    for i in range(NUM_FILES):
        large = Image.fromarray(images[i]).resize((256, 256), Image.Resampling.BICUBIC)
        large.save(folder / "files" / f"{i:05d}.jpg", quality=90)
        (folder / "files" / f"{i:05d}.txt").write_text(f"caption {i}")
