"""Reads the members of a tar in order, from a stream, and detects where it is damaged or cut off."""

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Container, Iterator

import tensorflow as tf

from t2i_tpu.data.sources.file_names import GIT_LFS_START, is_clutter
from t2i_tpu.data.sources.source import is_unsafe_name

_MAX_MEMBER_BYTES = 1 << 28
# The first bytes of compressed files.
_DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclasses.dataclass
class Member:
    """A file in a tar.

    Attributes:
      name: its path, without ./ and leading slashes.
      index: its number in the tar. A hard link has the number of the file that it stands for.
      content: its bytes, or None if they have not been read.
      problem: the cause for which it cannot be used, or None.
    """

    name: str
    index: int
    content: bytes | None = None
    problem: str | None = None


class TarFault(Exception):
    """A tar cannot be read further. The argument is the cause, in snake_case."""


def read_members(path: str, wanted: Container[int] | None = None) -> Iterator[Member]:
    """Yield the files of a tar, which may be compressed.

    Folders and clutter (`is_clutter`) are skipped.

    Args:
      path: path of the tar, local or gs://.
      wanted: the indices of the members to yield, or None for all.

    Raises:
      TarFault: git_lfs_pointer, unreadable_tar (not a tar), rest_of_a_cut_tar or rest_of_a_damaged_tar.
      tf.errors.OpError: the file cannot be read.
    """
    count = 0
    try:
        with _open(path) as tar:
            indices = {}
            for count, member in enumerate(tar, 1):
                name = _normalize(member.name)
                if member.isdir() or is_clutter(name):
                    continue
                is_link = member.islnk() and _normalize(member.linkname) in indices
                indices[name] = indices[_normalize(member.linkname)] if is_link else count
                if wanted is None or count in wanted:
                    problem = None if is_link else _find_problem(member)
                    read = not is_link and not problem
                    content = tar.extractfile(member).read() if read else None
                    yield Member(name, indices[name], content, problem)
            if not tar.has_end:
                raise TarFault("rest_of_a_cut_tar")
    except (TarFault, tf.errors.OpError, MemoryError):
        raise
    except Exception as error:  # hostile bytes can make tarfile raise errors of many classes
        raise TarFault(_classify(error, count)) from error


def _normalize(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _find_problem(member: tarfile.TarInfo) -> str | None:
    """Return the cause for which a member cannot be used, or None."""
    if is_unsafe_name(_normalize(member.name)):
        return "unsafe_name"
    if member.islnk() or member.issym():
        return "link_in_tar"
    if not member.isfile():
        return "not_a_file"
    return "too_large" if member.size > _MAX_MEMBER_BYTES else None


@contextlib.contextmanager
def _open(path: str) -> Iterator["_StrictTar"]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
        start = file.read(len(GIT_LFS_START))
        if start == GIT_LFS_START:
            raise TarFault("git_lfs_pointer")
        file.seek(0)
        for magic, decompress in _DECOMPRESSORS.items():
            if start.startswith(magic):
                file = stack.enter_context(decompress(file))
        # Tars that were written one after the other into a file have zeros between them.
        yield stack.enter_context(_StrictTar.open(fileobj=file, mode="r|", ignore_zeros=True))


class _DamagedHeaderError(tarfile.ReadError):
    """The header of a member is damaged."""


class _StrictInfo(tarfile.TarInfo):
    """Raises errors for headers that tarfile takes for the end of a tar."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            member = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            tar.has_end = True
            raise
        except tarfile.TruncatedHeaderError:
            raise tarfile.ReadError("unexpected end of data") from None
        except tarfile.InvalidHeaderError:
            raise _DamagedHeaderError from None
        tar.has_end = False
        return member


class _StrictTar(tarfile.TarFile):
    """A tar that notices its end.

    Attributes:
      has_end: whether the last header that was read marks the end of a tar.
    """

    tarinfo = _StrictInfo
    has_end = False


def _classify(error: Exception, count: int) -> str:
    """Return the cause for an error that was raised after `count` members."""
    if not count:
        return "unreadable_tar"
    damaged = _DamagedHeaderError, zlib.error, lzma.LZMAError, OSError
    return "rest_of_a_damaged_tar" if isinstance(error, damaged) else "rest_of_a_cut_tar"
