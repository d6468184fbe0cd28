"""Reads a folder of images with a caption file next to each image, or with a table of captions."""

import concurrent.futures
import errno
import functools
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, UNREADABLE_ENDINGS, get_ending
from t2i_tpu.data.sources.folder.caption_files import CAPTION_ENDINGS, CaptionFiles
from t2i_tpu.data.sources.folder.file_index import FileIndex
from t2i_tpu.data.sources.folder.survey import FolderSurvey
from t2i_tpu.data.sources.folder.walk import list_folder, walk
from t2i_tpu.data.sources.source import UNIT_SIZE, Item, Unit, is_unsafe_name
from t2i_tpu.data.sources.tables.tables import MAIN_TABLE_ENDINGS, check_table, is_table, read_table
from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

_MISSING_FILE_ERRORS = tf.errors.NotFoundError, tf.errors.InvalidArgumentError
_MISSING_FILE_CODES = errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG
_PARALLEL_READS = 16  # on gs:// reading a file takes several requests
# Names of text files that are not captions, up to the first dot, hyphen or underscore.
_DOCUMENTS = {"readme", "license", "licence", "copying", "notice", "requirements"}
# The splits of folders that have a table each, as on the Hugging Face Hub.
_SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(
    ("test", "testing", "validation", "valid", "val", "dev", "eval", "heldout"), "heldout"
)

# An image's path relative to the folder, its caption or the path of its caption file (None for NAME.txt),
# and its other columns.
Row = tuple[str, Any, dict[str, Any]]


class FolderSource:
    """A folder that contains images at any depth.

    If a folder has a table (metadata.* or captions.*), the rows of the table are the items, and images
    below it that no row names are rejected. Elsewhere every image is an item, with NAME.txt or
    NAME.caption as its caption. If the folders train and test have a table each, they are the splits.

    A unit holds rows, whether they are from a table, and their split if they have one. Or it holds the
    (key, cause) of each of some items that are rejected.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def list_units(self) -> Iterator[Unit]:
        if not tf.io.gfile.isdir(self.folder):
            reason, remedy = "no such folder", "check the path"
            if tf.io.gfile.exists(self.folder):
                kind = {"tar": "webdataset", "parquet": "parquet"}.get(get_ending(self.folder))
                reason, remedy = "not a folder", "name the folder in which the file is"
                remedy = f"use --source={kind}:{self.folder}" if kind else remedy
            raise UserError(f"--source=folder:{self.folder}: {reason}; {remedy}")
        survey = FolderSurvey(self.folder)
        try:
            yield from self._list_units(survey)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--source=folder:{self.folder} cannot be read: {reason}") from error
        survey.check_usable()

    def list_files(self, unit: Unit) -> list[str]:
        names = []
        for name, caption, _ in unit.get("rows", ()):
            names.append(name)
            if not unit["table"]:
                names.append(caption or _make_caption_path(name))
        return [self._join(name) for name in names]

    def read(self, unit: Unit) -> Iterator[Item]:
        for key, cause in unit.get("rejected", ()):
            yield Item(key, problem=cause)
        rows = unit.get("rows", ())
        read_item = functools.partial(self._read_item, unit)
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL_READS) as pool:
            for start in range(0, len(rows), _PARALLEL_READS):
                yield from pool.map(read_item, rows[start : start + _PARALLEL_READS])

    def read_label_names(self) -> None:
        return None

    def _list_units(self, survey: FolderSurvey) -> Iterator[Unit]:
        groups = {}
        rejected, splits = [], {}
        for path, files, folders in walk(self.folder, "", survey.unreadable_folders.append):
            survey.count_files(files)
            table = self._choose_table(path, files, survey)
            if table:
                folders.clear()  # the table covers all folders below it
                unit, rows = {"table": True}, self._list_table(path, table, rejected, survey)
                if split := splits.get(path):
                    unit["split"] = split
            else:
                splits |= self._find_splits(path, folders)
                unit, rows = {"table": False}, self._list_images(path, files, rejected, survey)
            group = groups.setdefault(tuple(unit.items()), [])
            yield from _take_full_units(group, rows, unit)
        for kind, group in groups.items():
            if group:
                yield {"rows": group} | dict(kind)
        rejected += ((path, "unreadable_folder") for path in survey.unreadable_folders)
        for start in range(0, len(rejected), UNIT_SIZE):
            yield {"rejected": rejected[start : start + UNIT_SIZE]}

    def _list_images(
        self, path: str, files: list[str], rejected: list[tuple[str, str]], survey: FolderSurvey
    ) -> Iterator[Row]:
        """Yield the images of one folder, and add what cannot be used to `rejected`."""
        captions = CaptionFiles(files)
        unused = set(captions.list_files())
        for name in files:
            ending = get_ending(name)
            stem = posixpath.splitext(name)[0]
            if ending not in IMAGE_ENDINGS and ending not in UNREADABLE_ENDINGS:
                continue
            caption = captions.find(name)
            unused.discard(caption)
            if ending in UNREADABLE_ENDINGS:
                rejected.append((posixpath.join(path, name), f"unsupported_{ending}"))
                continue
            survey.count_image(posixpath.join(path, name), caption is not None)
            is_usual = caption in (None, stem + ".txt")
            yield (
                posixpath.join(path, name),
                None if is_usual else posixpath.join(path, caption),
                {},
            )
        for name in sorted(unused):
            if name.lower().replace("-", ".").replace("_", ".").split(".")[0] not in _DOCUMENTS:
                rejected.append((posixpath.join(path, name), "missing_image"))

    def _list_table(
        self, path: str, table: str, rejected: list[tuple[str, str]], survey: FolderSurvey
    ) -> Iterator[Row]:
        """Yield the rows of a table, and add images that it does not name to `rejected`."""
        names = []
        for folder, files, _ in walk(self.folder, path, survey.unreadable_folders.append):
            if folder != path:
                survey.count_files(files)
            relative = folder[len(path) :].lstrip("/")
            names += (posixpath.join(relative, file) for file in files)
        table_path = self._join(posixpath.join(path, table))

        def read_names() -> Iterator[str]:
            return (row.file for row in read_table(table_path) if row.file)

        files = (name for name in names if name != table)
        index = FileIndex(files, self._join(path), read_names)
        count, found, first = 0, 0, ""
        for row in read_table(table_path):
            count += 1
            if row.file is None:
                rejected.append((posixpath.join(path, f"{table}:{row.number}"), "missing_image"))
                continue
            name = index.find(row.file)
            found += name is not None
            first = first or row.file
            key = posixpath.join(path, name or row.file)
            survey.count_image(key, True)
            yield key, row.caption, row.columns
        if not found:
            survey.fail_unfound(posixpath.join(path, table), count, first, names)
        rejected += (
            (posixpath.join(path, name), "not_in_table") for name in index.list_unnamed_images()
        )

    def _choose_table(self, path: str, files: list[str], survey: FolderSurvey) -> str | None:
        """Return the name of the table of a folder, or None. Raises UserError if there are several."""
        names = [name for name in files if is_table(name)]
        if len(names) == 1 and get_ending(names[0]) in MAIN_TABLE_ENDINGS:
            return names[0]
        usable, errors = [], {}
        for name in names:
            try:
                check_table(self._join(posixpath.join(path, name)))
                usable.append(name)
            except UserError as error:
                errors[name] = error
        if len(usable) > 1:
            raise UserError(
                f"--source=folder:{posixpath.join(self.folder, path)} has {' and '.join(usable)}; keep "
                "only one of them"
            )
        for name, error in errors.items():
            if get_ending(name) in CAPTION_ENDINGS:
                continue  # it may be the caption of captions.png
            if not usable and get_ending(name) in MAIN_TABLE_ENDINGS:
                raise error
            logging.warning("%s is ignored: %s", posixpath.join(path, name), error)
            survey.unusable_tables.append(str(error))
        return usable[0] if usable else None

    def _find_splits(self, path: str, folders: list[str]) -> dict[str, str]:
        """Return {path of a subfolder: split} if both splits have a folder with a table, or {}."""
        splits = {}
        for name in folders:
            if split := _SPLITS.get(name.lower()):
                subfolder = posixpath.join(path, name)
                files, _ = list_folder(self.folder, subfolder)
                if any(map(is_table, files)):
                    splits[subfolder] = split
        return splits if len(set(splits.values())) == 2 else {}

    def _read_item(self, unit: Unit, row: Row) -> Item:
        """Read an image and, if there is no table, its caption."""
        name, caption, columns = row
        item = Item(name, split=unit.get("split"), columns=columns)
        if is_unsafe_name(name):
            item.problem = "unsafe_name"
        else:
            item.image, item.problem = self._read_file(name, "missing_image")
        if unit["table"]:
            item.caption = caption
        elif item.problem is None:
            caption = caption or _make_caption_path(name)
            item.caption, item.problem = self._read_file(caption, "no_caption")
        return item

    def _join(self, name: str) -> str:
        return posixpath.join(self.folder, name)

    def _read_file(self, name: str, cause_if_missing: str) -> tuple[bytes | None, str | None]:
        """Return (content, None), or (None, cause) if the file cannot be read."""
        path, is_remote = self._join(name), paths.is_remote(self.folder)
        if "\0" in name:
            return None, cause_if_missing
        try:
            name.encode()  # TensorFlow opens only files with such names
            # Opening a pipe would wait forever.
            if not is_remote and not stat.S_ISREG(os.stat(path).st_mode):
                return None, "not_a_file"
            with tf.io.gfile.GFile(path, "rb") as file:
                return file.read(), None
        except UnicodeEncodeError:
            return None, "key_not_utf8"
        except _MISSING_FILE_ERRORS:
            return None, cause_if_missing
        except OSError as error:
            is_missing = error.errno in _MISSING_FILE_CODES
            return None, cause_if_missing if is_missing else "unreadable_file"
        except tf.errors.OpError:
            # On gs:// the error concerns the bucket, for example its permissions, and not the file.
            if is_remote:
                raise
            return None, "unreadable_file"


def _make_caption_path(name: str) -> str:
    """Return the path of the usual caption file of an image."""
    return posixpath.splitext(name)[0] + ".txt"


def _take_full_units(group: list[Row], rows: Iterable[Row], unit: Unit) -> Iterator[Unit]:
    """Add rows to a group, and yield it as a unit whenever it is full."""
    for row in rows:
        group.append(row)
        if len(group) == UNIT_SIZE:
            yield {"rows": group.copy()} | unit
            group.clear()
