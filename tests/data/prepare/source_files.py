"""Writes the files of each kind of source with the library that defines the format.

Images are given as triples (key, uint8 [H, W, 3], caption).
"""

import csv
import hashlib
import io
import json
import tarfile

import numpy as np
from PIL import Image


def compute_digest(image):
    """Return the SHA-256 of an array's content in hex."""
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


def encode_png(image):
    """Return an array as the bytes of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def add_member(tar, name, content):
    """Add a file to an open tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_folder(folder, images, table=None):
    """Write a folder of PNG files, with .txt captions or a table of captions."""
    for key, image, caption in images:
        path = folder / key[:2] / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
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
    """Write tar shards with webdataset's writer."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=per_shard, verbose=0) as writer:
        for key, image, caption in images:
            sample = {"png": encode_png(image), "txt": caption, "json": {"n": key}}
            writer.write({"__key__": key, **sample})
    return f"webdataset:{folder}/*.tar"


def write_parquet(folder, images, per_group=150):
    """Write two parquet files with the columns of Hugging Face's image data sets."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        rows = images[part::2]
        table = pyarrow.table(
            {
                "image": [
                    {"bytes": encode_png(image), "path": f"{key}.png"} for key, image, _ in rows
                ],
                "text": [caption for _, _, caption in rows],
            }
        )
        path = folder / f"train-{part:05d}-of-00002.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=per_group)
    return f"parquet:{folder}/train-*.parquet"


def write_npy(folder, images, embeddings=None):
    """Write imgs.npy, captions.csv and, if there are any, embeddings.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "imgs.npy", np.stack([image for _, image, _ in images]))
    # Write the same file as pandas' Series.to_csv(index=False).
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["0"], *([caption] for _, _, caption in images)])
    if embeddings is not None:
        np.save(folder / "embeddings.npy", embeddings)
    return f"npy:{folder}"


WRITERS = {
    "folder": write_folder,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "npy": write_npy,
}
