"""Reads tar shards in webdataset's format, which img2dataset writes.

An example is an image, a caption in .txt (or as "caption" in .json), and optionally an embedding in .npy;
see `tar_examples` for their names.
"""

from collections.abc import Iterator

from t2i_tpu.data.sources.source import Item, Unit, expand_pattern, name_files
from t2i_tpu.data.sources.tar_examples import ExampleFinder
from t2i_tpu.data.sources.tar_members import TarFault, read_members


class WebdatasetSource:
    """Tar shards in webdataset's format. A unit is a tar file, and the name with which keys begin."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def list_units(self) -> Iterator[Unit]:
        for file, name in name_files(expand_pattern(self.pattern, "webdataset")).items():
            yield {"file": file, "name": name}

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        for item in _read_items(unit["file"]):
            item.key = f"{unit['name']}/{item.key}"
            yield item

    def read_label_names(self) -> None:
        return None


def _read_items(path: str) -> Iterator[Item]:
    """Yield the items of a tar."""
    finder, count = ExampleFinder(), 0
    try:
        for member in read_members(path):
            count += 1
            yield from finder.add(member)
    except TarFault as fault:
        yield Item(f"after member {count}" if count else "", problem=fault.args[0])
    yield from finder.close()
    if finder.images:
        yield from _read_images(path, finder.images)


def _read_images(path: str, images: dict[int, list[Item]]) -> Iterator[Item]:
    """Yield the items {index of the image: items} with their images, in the order of the tar."""
    try:
        for member in read_members(path, wanted=set(images)):
            for item in images.pop(member.index, ()):
                item.image, item.problem = member.content, member.problem
                yield item
    except TarFault:
        pass  # it was counted in the first pass
    for items in images.values():
        for item in items:
            item.problem = "missing_image"
            yield item
