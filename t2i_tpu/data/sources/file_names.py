"""Decides from a file's name whether it is an image, and whether it is clutter that is ignored.

A file is an image if Pillow can decode the format that belongs to its ending.
"""

import contextlib
import fnmatch
import posixpath
import re
import unicodedata
from collections.abc import Iterator

from PIL import Image

with contextlib.suppress(ImportError):  # Pillow reads HEIC if this package is installed
    import pillow_heif

    pillow_heif.register_heif_opener()

# Formats that Pillow recognizes but cannot decode by itself. EPS would start Ghostscript.
_UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Endings of images that cannot be read. Such files are rejected.
_OTHER_IMAGES = (
    *("svg", "svgz", "heic", "heif", "hif", "jxl", "jxr", "eps", "wmf", "emf", "xcf", "kra", "ai"),
    *("exr", "hdr", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "pef", "srw"),
    *("psb", "dcm", "djvu", "avif", "jp2", "webp", "psd", "bpg"),
)

# Files and folders that operating systems, editors and network storage leave behind.
_CLUTTER = (
    *(".?*", "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
    *("~$*", "*~", "*.swp", "*.swo"),
)
_CLUTTER_PATTERN = re.compile("|".join(map(fnmatch.translate, _CLUTTER)))


def _list_formats() -> Iterator[tuple[str, str]]:
    """Yield the endings that Pillow decodes, in lower case and without a dot, and their formats."""
    for ending, name in Image.registered_extensions().items():  # also loads all plugins
        # Pillow opens MPO, the format of some phones and cameras, as JPEG.
        if (name in Image.OPEN or name == "MPO") and name not in _UNDECODABLE:
            yield ending[1:].lower(), name


IMAGE_ENDINGS = frozenset(ending for ending, _ in _list_formats())
# The names of all formats that may be decoded, whatever the ending of the file is.
IMAGE_FORMATS = tuple(name for name in Image.ID if name not in _UNDECODABLE)
UNREADABLE_ENDINGS = frozenset(_OTHER_IMAGES) - IMAGE_ENDINGS

# The start of a small text that git stores in place of a file, until it is downloaded.
GIT_LFS_START = b"version https://git-lfs"


def get_ending(name: str) -> str:
    """Return the ending of a file's name, in lower case and without a dot, or ""."""
    return posixpath.splitext(name)[1][1:].lower()


def fold(path: str) -> str:
    """Return a path without differences of case and of the Unicode normal form."""
    return unicodedata.normalize("NFC", path).casefold()


def is_clutter(path: str) -> bool:
    """Return whether a file, or a folder that contains it, is hidden or left by other programs.

    Args:
      path: a path relative to the source, for example a member of a tar.
    """
    parts = (part for part in path.lower().split("/") if part not in ("", ".", ".."))
    return any(_CLUTTER_PATTERN.match(part) for part in parts)
