"""Finds the examples of a tar: which image belongs to which caption and other members.

The members of an example have the same name up to a dot. In webdataset's convention it is the first dot
of the file's name, as in 7.jpg and 7.txt, or in 7.input.jpg and 7.output.txt. But an image and a caption
that have the same name up to the last dot, as photo.2019.jpg and photo.2019.txt, are an example too.

In most tars, the members of an example are neighbors, and one pass over the tar is enough. In other tars,
all members except the images are kept until the rest of their example is found, and the images are read
in a second pass.
"""

import posixpath
from collections.abc import Iterator

from t2i_tpu.data.sources.source import Item
from t2i_tpu.data.sources.tar.tar_item import Parts, find_image, has_caption, make_item
from t2i_tpu.data.sources.tar.tar_members import Member

_MAX_GROUP = 32  # the largest number of neighbors that are taken for one example

# The members of one key: {infix: {ending: member}}. A member is called KEY.ENDING or KEY.INFIX.ENDING.
Group = dict[str, Parts]


class ExampleFinder:
    """Makes items from the members of a tar, which are added in order.

    Attributes:
      images: {index of an image that has to be read again: the items to which it belongs}.
    """

    def __init__(self):
        self.images: dict[int, list[Item]] = {}
        self._key, self._group = "", {}  # the last neighbors that have one key
        self._waiting: dict[str, Group] = {}  # {key: its incomplete parts, without images}
        # The keys of which an item was made, and whether that item has no infix.
        self._done: dict[str, bool] = {}

    def add(self, member: Member) -> Iterator[Item]:
        """Add the next member, and yield the items that are now complete."""
        key, infix, ending = _split_name(member.name)
        is_full = len(self._group) >= _MAX_GROUP and infix not in self._group
        if key != self._key or ending in self._group.get(infix, ()) or is_full:
            yield from self._close_group()
            self._key = key
        self._group.setdefault(infix, {})[ending] = member

    def close(self) -> Iterator[Item]:
        """Yield the items that are still incomplete, and fill `images`."""
        yield from self._close_group()
        for key, group in self._waiting.items():
            if key not in self._done and (parts := _merge(group)):
                yield from self._make_item(key, "", parts)
            else:
                yield from self._reject(key, group)

    def _close_group(self) -> Iterator[Item]:
        """Yield the examples among the last neighbors, and let the rest wait for missing members."""
        key, group, rest = self._key, self._group, {}
        self._group, waiting = {}, self._waiting.pop(self._key, {})
        for infix, parts in group.items():
            known = waiting.pop(infix, {})
            if known.keys() & parts.keys():  # they belong to another example of the same name
                yield from self._reject(key, {infix: known})
                known = {}
            parts = known | parts
            if find_image(parts) and has_caption(parts):
                yield from self._make_item(key, infix, parts)
            else:
                rest[infix] = parts
        if not waiting and key not in self._done and (parts := _merge(rest)):
            yield from self._make_item(key, "", parts)
            return
        if self._done.get(key):  # such as 7.jpg; then 7.mask.png is not an example
            rest = {infix: parts for infix, parts in rest.items() if not infix}
        for parts in rest.values():
            if image := find_image(parts):
                image.content = None
        waiting |= rest
        if waiting:
            self._waiting[key] = waiting

    def _make_item(self, key: str, infix: str, parts: Parts) -> Iterator[Item]:
        """Yield the item of an example, unless its image has to be read again."""
        self._done[key] = self._done.get(key, False) or not infix
        item, image = make_item(_join(key, infix), parts), find_image(parts)
        if item.problem or image.content is not None:
            yield item
        else:
            self.images.setdefault(image.index, []).append(item)

    def _reject(self, key: str, group: Group) -> Iterator[Item]:
        """Yield the items of a group whose images and captions cannot be paired."""
        images = [infix for infix, parts in group.items() if find_image(parts)]
        captions = [infix for infix, parts in group.items() if has_caption(parts)]
        if key not in self._done and images and captions:
            yield Item(key, problem="several_images" if len(images) > 1 else "several_captions")
            return
        for infix in images:
            problem = find_image(group[infix]).problem or "no_caption"
            yield Item(_join(key, infix), problem=problem)
        problem = "separate_from_its_image" if key in self._done else "missing_image"
        for infix in captions or ([] if images else list(group)[:1]):
            yield Item(_join(key, infix), problem=problem)


def _split_name(name: str) -> tuple[str, str, str]:
    """Return the key, the infix and the ending, in lower case, of the name of a member."""
    folder, file = posixpath.split(name)
    stem, _, rest = file.partition(".")
    infix, _, ending = rest.rpartition(".")
    return posixpath.join(folder, stem), infix, ending.lower()


def _join(key: str, infix: str) -> str:
    return f"{key}.{infix}" if infix else key


def _merge(group: Group) -> Parts | None:
    """Return the parts of all infixes as one example, or None if there is not one image and caption.

    The image without an infix counts, if there is one. The others may be masks, for example.
    """
    images = [infix for infix, parts in group.items() if find_image(parts)]
    captions = [infix for infix, parts in group.items() if has_caption(parts)]
    images = [""] if "" in images else images
    captions = [""] if "" in captions else captions
    if len(images) != 1 or len(captions) != 1:
        return None
    merged = {}
    for infix in dict.fromkeys((*images, *captions, *group)):
        merged = group[infix] | merged
    return merged
