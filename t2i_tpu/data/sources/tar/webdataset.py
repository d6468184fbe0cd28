"""Reads tar shards in webdataset's format, which img2dataset writes.

An example is an image, a caption in .txt (or as "caption" in .json), and optionally an embedding in .npy;
see `tar_examples` for their names.
"""

import collections
import contextlib
import posixpath
from collections.abc import Iterator

from absl import logging

from t2i_tpu.data.sources.patterns import expand_pattern, name_files
from t2i_tpu.data.sources.source import Item, Unit
from t2i_tpu.data.sources.tar.tar_examples import ExampleFinder
from t2i_tpu.data.sources.tar.tar_members import TarFault, read_members
from t2i_tpu.errors import UserError

_NUM_CHECKED = 3  # number of tars in which to look for an example
_NUM_SHOWN = 8  # number of endings to name in an error


class WebdatasetSource:
    """Tar shards in webdataset's format. A unit is a tar file, and the name with which keys begin."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def list_units(self) -> Iterator[Unit]:
        names = name_files(expand_pattern(self.pattern, "webdataset"))
        _check_first(list(names))
        for file, name in names.items():
            yield {"file": file, "name": name}

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        for item in _read_items(unit["file"]):
            item.key = f"{unit['name']}/{item.key}"
            yield item

    def read_label_names(self) -> None:
        return None


def _check_first(paths: list[str]) -> None:
    """Look for an example in the first tars, because reading all of them may take days.

    If there is none, a warning is logged.

    Raises:
      UserError: there is none, and there are no other tars.
    """
    endings = collections.Counter()
    for path in paths[:_NUM_CHECKED]:
        if _has_example(path, endings):
            return
    if not endings:
        return  # empty and unreadable tars are counted when they are read
    found = ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(_NUM_SHOWN))
    message = (
        f"there is no image with a caption in {', '.join(paths[:_NUM_CHECKED])}, only files that end in "
        f'{found}; give each image a .txt, or a .json with "caption", of the same name'
    )
    if len(paths) <= _NUM_CHECKED:
        raise UserError(message)
    logging.warning("%s", message)


def _has_example(path: str, endings: collections.Counter) -> bool:
    """Return whether a tar has an example, and otherwise count the endings of its files."""
    finder = ExampleFinder()
    with contextlib.suppress(TarFault):
        for member in read_members(path):
            items = list(finder.add(member))
            if finder.images or any(not item.problem for item in items):
                return True
            endings[posixpath.splitext(member.name)[1].lower() or "no ending"] += 1
    return any(not item.problem for item in finder.close()) or bool(finder.images)


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
