"""Finds the files that a pattern in --source stands for, and gives each a short name."""

import glob
import itertools
import os
import posixpath
from collections.abc import Iterable

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

_FILES_OF_KINDS = {"webdataset": "*.tar", "parquet": "*.parquet", "urls": "*.parquet"}


def expand_pattern(pattern: str, kind: str) -> list[str]:
    """Return the files of a path, a glob or a brace pattern (shard-{0000..0099}.tar).

    Args:
      pattern: the pattern, local or gs://.
      kind: the kind of source, for error messages.

    Raises:
      UserError: a file does not exist, or no file matches.
    """
    files = []
    for path in _expand_braces(pattern, kind):
        if _is_folder(path):
            usual = f"{path.rstrip('/')}/{_FILES_OF_KINDS[kind]}"
            if not paths.is_remote(path):
                usual = _suggest_pattern(path, kind) or usual
            raise UserError(
                f"--source={kind}:{path} is a folder; name its files, for example with "
                f"--source={kind}:{usual}"
            )
        if tf.io.gfile.exists(path):  # even if its name contains *, ? or [
            files.append(path)
        elif any(character in path for character in "*?["):
            files += sorted(match for match in _glob(path) if not os.path.isdir(match))
        else:
            raise UserError(f"--source={kind}:{pattern}: {path!r} does not exist; check the path")
    if not files:
        folder, _ = os.path.split(pattern)
        remedy = "check the pattern"
        if not paths.is_remote(pattern) and (usual := _suggest_pattern(folder, kind)):
            remedy = f"did you mean --source={kind}:{usual}?"
        raise UserError(f"--source={kind}:{pattern}: no file matches; {remedy}")
    return files


def _suggest_pattern(folder: str, kind: str) -> str | None:
    """Return a pattern of the usual files of a source in a local folder or just below, or None."""
    patterns = (posixpath.join(folder, below, _FILES_OF_KINDS[kind]) for below in ("", "*", "*/*"))
    return next(filter(_glob, patterns), None)


def _glob(pattern: str) -> list[str]:
    """Return the paths that fit a pattern. Local folders that exist are taken literally."""
    if paths.is_remote(pattern):
        return tf.io.gfile.glob(pattern)
    folder, rest = _split_existing(pattern)
    return glob.glob(os.path.join(glob.escape(folder), rest), recursive=True)


def _split_existing(pattern: str) -> tuple[str, str]:
    """Split a local pattern into the longest folder that exists and the rest."""
    folder, rest = os.path.split(pattern)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
        rest = os.path.join(name, rest)
    return folder, rest


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder. On gs://, a name with an ending is assumed to be a file."""
    if paths.is_remote(path):
        return "." not in posixpath.basename(path) and tf.io.gfile.isdir(path)
    return os.path.isdir(path)


def _expand_braces(pattern: str, kind: str) -> list[str]:
    """Return the patterns without braces that a pattern stands for."""
    if "{" not in pattern or tf.io.gfile.exists(pattern):
        return [pattern]
    try:
        import braceexpand
    except ImportError:
        raise UserError(
            f"--source={kind}:{pattern}: {{a..b}} needs braceexpand; pip install -e '.[prepare]', "
            "or use * instead"
        ) from None
    try:
        folder, rest = ("", pattern) if paths.is_remote(pattern) else _split_existing(pattern)
        return [os.path.join(folder, path) for path in braceexpand.braceexpand(rest)]
    except braceexpand.UnbalancedBracesError:
        raise UserError(
            f"--source={kind}:{pattern}: a brace is not closed; write {{0000..0099}}, or use * instead"
        ) from None


def name_files(paths: Iterable[str]) -> dict[str, str]:
    """Return {path: the beginning of the keys of its items}, without repeated paths.

    The names are those of the files without folder and extension if these differ. Otherwise they are
    the paths relative to the folder that all files have in common.
    """
    paths = list(dict.fromkeys(paths))
    parents = zip(*(posixpath.dirname(path).split("/") for path in paths), strict=False)
    depth = sum(1 for _ in itertools.takewhile(lambda parent: len(set(parent)) == 1, parents))
    relative = ["/".join(path.split("/")[depth:]) for path in paths]
    stems = [posixpath.splitext(path)[0] for path in relative]
    for names in ([posixpath.basename(stem) for stem in stems], stems, relative):
        if len(set(names)) == len(names):
            break
    return dict(zip(paths, names, strict=True))
