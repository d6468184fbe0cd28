"""Writes tars, and reads them with the webdataset source."""

import random
import tarfile

from t2i_tpu.data.sources.patterns import expand_pattern, name_files
from t2i_tpu.data.sources.tar.webdataset import WebdatasetSource
from tests.data.prepare.source_files import add_member
from tests.data.sources.outcomes import find_outcome


def write_tar(path, members, **options):
    """Write a tar of (name, content)."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            add_member(tar, name, content)
    return path


def read_outcomes(pattern):
    """Return [(key, content of the image and caption, or the cause of the rejection)]."""
    source = WebdatasetSource(str(pattern))
    names = name_files(expand_pattern(str(pattern), "webdataset"))
    units = ({"file": path, "name": name} for path, name in names.items())
    return [(item.key, find_outcome(item)) for unit in units for item in source.read(unit)]


def make_members(count, image=".png", caption=".txt"):
    """Return the members of examples whose image contains "image N" and whose caption is "N"."""
    return [
        member
        for index in range(count)
        for member in (
            (f"{index}{image}", b"image %d" % index),
            (f"{index}{caption}", b"%d" % index),
        )
    ]


def expect(count, infix=""):
    return [(f"a/{index}{infix}", f"image {index} {index}") for index in range(count)]


ORDERS = {
    "sorted": lambda members: members,
    "captions first": lambda members: [members[index ^ 1] for index in range(len(members))],
    "all images first": lambda members: members[::2] + members[1::2],
    "all captions first": lambda members: members[1::2] + members[::2],
    "random": lambda members: random.Random(0).sample(members, len(members)),
}
