"""Writes folders of images, and reads them with the folder source."""

import io

from PIL import Image

from t2i_tpu.data.sources.folder.folder import FolderSource


def encode_color(color, kind="PNG"):
    """Return a small image of one color as the bytes of a file."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(content, kind)
    return content.getvalue()


def write_files(folder, files):
    """Write {path: content}. None stands for a small image."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            content = encode_color("red")
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_items(folder):
    """Return the items of all units of a folder."""
    source = FolderSource(str(folder))
    return [item for unit in source.list_units() for item in source.read(unit)]


def read_captions(folder):
    """Return the captions of a folder's items by key, or {"cause"} of an item that is rejected.

    It checks that keys are unique, so no item replaces another one.
    """
    items = read_items(folder)
    outcomes = {item.key: {item.problem} if item.problem else get_text(item) for item in items}
    assert len(outcomes) == len(items)
    return outcomes


def get_text(item):
    """Return an item's caption, decoded if it was read from a file."""
    return item.caption.decode() if isinstance(item.caption, bytes) else item.caption
