"""Reads tar shards in webdataset's format, which img2dataset writes.

Consecutive members whose paths agree up to the first dot of the file name form one item: an image, a
caption in .txt (or as "caption" in .json), and optionally an embedding in .npy.
"""

import json
import posixpath
import tarfile
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS
from t2i_tpu.data.sources.source import Item, Unit, expand_pattern, get_stem, is_unsafe_name

_MAX_MEMBER_BYTES = 1 << 28


class WebdatasetSource:
    """Tar shards in webdataset's format. A unit is a tar file."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def list_units(self) -> Iterator[Unit]:
        return ({"file": file} for file in expand_pattern(self.pattern, "webdataset"))

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        prefix = get_stem(unit["file"])
        group, parts = None, {}  # the current item: its path without extension, and its members
        for name, content, problem in _read_members(unit["file"]):
            if problem:
                yield Item(f"{prefix}/{name}", problem=problem)
                continue
            folder, file = posixpath.split(name)
            stem, _, extension = file.partition(".")
            stem = posixpath.join(folder, stem)
            if stem != group or extension in parts:
                if parts:
                    yield _make_item(f"{prefix}/{group}", parts)
                group, parts = stem, {}
            parts[extension.lower()] = content
        if parts:
            yield _make_item(f"{prefix}/{group}", parts)

    def read_label_names(self) -> None:
        return None


def _read_members(path: str) -> Iterator[tuple[str, bytes | None, str | None]]:
    """Yield (name, content, problem) of every member, without writing files to disk."""
    count = 0
    try:
        with tf.io.gfile.GFile(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                count += 1
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                if is_unsafe_name(name):
                    yield name, None, "unsafe_name"
                elif not member.isfile():
                    yield name, None, "not_a_file"
                elif member.size > _MAX_MEMBER_BYTES:
                    yield name, None, "too_large"
                else:
                    yield name, tar.extractfile(member).read(), None
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, tarfile.ReadError) and not count:
            yield "", None, "unreadable_tar"
        else:
            yield f"after member {count}", None, "rest_of_a_cut_tar"


def _make_item(key: str, parts: dict[str, bytes]) -> Item:
    """Return the item of a group of members, which are given as {extension: content}."""
    item = Item(key)
    item.image = next((parts[name] for name in parts if name in IMAGE_ENDINGS), None)
    try:
        columns = json.loads(parts["json"]) if "json" in parts else {}
        item.columns = columns if isinstance(columns, dict) else {}
        item.caption = parts.get("txt", item.columns.get("caption"))
        item.embedding = parts.get("npy")
    except ValueError:
        item.problem = "bad_metadata"
    if item.image is None:
        item.problem = "missing_image"
    return item
