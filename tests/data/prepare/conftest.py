"""Two thousand real images with captions, and how each source's files are made of them by the
library that owns the format."""

import csv
import functools
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.data.locate import locate
from t2i_tpu.data.prepare import pool
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.reader import open_dataset


def digest(image):
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def emoji():
    """[(key, uint8 [64, 64, 3], caption)]; no two have the same pixels or the same caption."""
    examples = open_dataset(locate("embedded:emoji"), "embedding", 64).examples("train", 2100)
    unique = {digest(one["image"]): one for one in examples}.values()
    return [(one["key"], one["image"], one["caption"]) for one in unique][:2000]


@pytest.fixture
def prepared(tmp_path, read_shards):
    """`prepared(source, ...)` -> (manifest, {split: its examples}) of a data set made in-process."""

    def prepared(source, output=None, workers=1, filters=None, **settings):
        output = str(output or tmp_path / "out" / "data")
        settings = dict(encoder="none", heldout_share=0.0, num_streams=4) | settings
        settings = Settings(source=source, filters=filters or Filters(), **settings)
        manifest = prepare(settings, output, functools.partial(pool.do_units, workers=workers))
        return manifest, {split: read_shards(output, split) for split in manifest.splits}

    return prepared


def write_folder(folder, images, table=None):
    for key, image, caption in images:
        path = folder / key[:2] / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
        if not table:
            path.with_suffix(".txt").write_text(caption)
    if table == "metadata.jsonl":
        rows = [{"file_name": f"{key[:2]}/{key}.png", "text": text} for key, _, text in images]
        (folder / table).write_text("\n".join(map(json.dumps, rows)))
    elif table == "captions.csv":
        with open(folder / table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "caption"))
            writer.writerows((f"{key[:2]}/{key}.png", text) for key, _, text in images)
    return f"folder:{folder}"


def write_webdataset(folder, images, per_shard=300):
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=per_shard, verbose=0) as writer:
        for key, image, caption in images:
            writer.write({"__key__": key, "png": png(image), "txt": caption, "json": {"n": key}})
    return f"webdataset:{folder}/*.tar"


def write_parquet(folder, images, per_group=150):
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        mine = images[part::2]
        table = pyarrow.table(
            {
                "image": [{"bytes": png(image), "path": f"{key}.png"} for key, image, _ in mine],
                "text": [caption for _, _, caption in mine],
            }
        )
        path = folder / f"train-{part:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=per_group)
    return f"parquet:{folder}/train-*.parquet"


def write_npy(folder, images, embeddings=None):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "imgs.npy", np.stack([image for _, image, _ in images]))
    with open(folder / "captions.csv", "w", newline="") as file:  # as pandas' Series.to_csv
        csv.writer(file).writerows([["0"], *([caption] for _, _, caption in images)])
    if embeddings is not None:
        np.save(folder / "embeddings.npy", embeddings)
    return f"npy:{folder}"


@pytest.fixture(scope="session")
def write_source():
    return {
        "folder": write_folder,
        "webdataset": write_webdataset,
        "parquet": write_parquet,
        "npy": write_npy,
    }
