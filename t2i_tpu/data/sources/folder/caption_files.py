"""Finds the caption file of an image among the files of a folder."""

import posixpath
from collections.abc import Iterable

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, UNREADABLE_ENDINGS, fold, get_ending

CAPTION_ENDINGS = ("txt", "caption")  # the first one wins


class CaptionFiles:
    """Finds the caption files of a folder, which have the name of their image with or without its ending.

    The names may differ in case or in their Unicode normal form, which cameras, archives and macOS
    change, as long as it is clear which image and which caption belong together.

    Args:
      files: the names of all files of the folder.
    """

    def __init__(self, files: Iterable[str]):
        files = list(files)
        self._captions = {}  # by their name without its ending
        for ending in CAPTION_ENDINGS:
            texts = (name for name in files if get_ending(name) == ending)
            for name in sorted(
                texts, key=lambda name: not name.endswith(ending)
            ):  # .txt before .TXT
                self._captions.setdefault(posixpath.splitext(name)[0], name)
        images = (name for name in files if get_ending(name) in IMAGE_ENDINGS | UNREADABLE_ENDINGS)
        names = {name for image in images for name in _list_names(image)}
        # The names of images without captions, and of captions without images, by their folded form.
        self._images = _group(names - self._captions.keys())
        self._unused = _group(self._captions.keys() - names)

    def list_files(self) -> list[str]:
        """Return the names of all caption files."""
        return list(self._captions.values())

    def find(self, image: str) -> str | None:
        """Return the name of the caption file of an image, or None."""
        for name in _list_names(image):
            if name in self._captions:
                return self._captions[name]
        for name in _list_names(image):
            captions = self._unused.get(fold(name), ())
            if len(captions) == len(self._images.get(fold(name), ())) == 1:
                return self._captions[captions[0]]
        return None


def _list_names(image: str) -> tuple[str, str]:
    """Return the names, without ending, that the caption of an image may have."""
    return posixpath.splitext(image)[0], image


def _group(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by their folded form."""
    groups = {}
    for name in names:
        groups.setdefault(fold(name), []).append(name)
    return groups
