"""Tar shards by webdataset's convention, img2dataset's output among them.

Neighbouring members whose names agree up to the first dot of the last part are one example: an
image, a .txt caption (or "caption" in .json), a .npy embedding. A unit is a tar.
"""

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from t2i_tpu.data.sources.source import IMAGE_ENDINGS, Item, Unit, files_of, stem_of

_MEMBER_BYTES = 1 << 28  # a larger member is not read


class WebdatasetSource:
    def __init__(self, pattern: str):
        self.pattern = pattern

    def units(self) -> Iterator[Unit]:
        return ({"file": file} for file in files_of(self.pattern, "webdataset"))

    def read(self, unit: Unit) -> Iterator[Item]:
        group, parts = None, {}
        for name, content, problem in _members(unit["file"]):
            if problem:
                yield Item(f"{stem_of(unit['file'])}/{name}", problem=problem)
                continue
            folder, file = posixpath.split(name)
            stem, _, ending = file.partition(".")
            stem = posixpath.join(folder, stem)
            if stem != group or ending in parts:
                if parts:
                    yield _item(unit["file"], group, parts)
                group, parts = stem, {}
            parts[ending.lower()] = content
        if parts:
            yield _item(unit["file"], group, parts)

    def label_names(self) -> None:
        return None


def _members(path: str) -> Iterator[tuple[str, bytes | None, str | None]]:
    """(name, content, problem) of every member; nothing is ever written to disk."""
    count = 0
    try:
        with tf.io.gfile.GFile(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                count += 1
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                if posixpath.isabs(name) or ".." in name.split("/"):
                    yield name, None, "unsafe_name"
                elif not member.isfile():
                    yield name, None, "not_a_file"
                elif member.size > _MEMBER_BYTES:
                    yield name, None, "too_large"
                else:
                    yield name, tar.extractfile(member).read(), None
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, tarfile.ReadError) and not count:
            yield "", None, "unreadable_tar"
        else:
            yield f"after member {count}", None, "rest_of_a_cut_tar"


def _item(file: str, key: str, parts: dict[str, bytes]) -> Item:
    item = Item(f"{stem_of(file)}/{key}")
    item.image = next((parts[ending] for ending in parts if ending in IMAGE_ENDINGS), None)
    try:
        columns = json.loads(parts["json"]) if "json" in parts else {}
        item.columns = columns if isinstance(columns, dict) else {}
        item.caption = parts.get("txt", item.columns.get("caption"))
        if "npy" in parts:
            item.embedding = np.load(io.BytesIO(parts["npy"]), allow_pickle=False)
    except ValueError:
        item.problem = "bad_metadata"
    if item.image is None:
        item.problem = "missing_image"
    return item
