"""Explains why nothing in a folder can be used: what was found, and what was expected."""

import collections
from collections.abc import Iterable

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, UNREADABLE_ENDINGS, get_ending
from t2i_tpu.data.sources.tables.tables import has_table_ending, is_table
from t2i_tpu.errors import UserError, shorten

_SHOWN_ENDINGS = 6
_OTHER_SOURCES = {
    "tar": "webdataset:{}/*.tar",
    "parquet": "parquet:{}/*.parquet",
    "npy": "npy:{}",
}
# What to do with files of other kinds, by their ending.
_REMEDIES = {
    "arrow": "write the data set as parquet (dataset.to_parquet of the library datasets) and use "
    "--source=parquet:FILE",
    "zip": "unpack {}",
    "7z": "unpack {}",
    "rar": "unpack {}",
    "gz": "unpack {}",
    "xlsx": "save {} as metadata.csv (CSV UTF-8)",
    "xls": "save {} as metadata.csv (CSV UTF-8)",
    "ods": "save {} as metadata.csv (CSV UTF-8)",
    "tfrecord": "if this is a data set that was prepared, train on it with data.source=shards:FOLDER",
}
_EXPECTED = (
    "expected images, each with its caption in a file next to it (a.jpg and a.txt), or a table "
    "metadata.csv or metadata.jsonl with the columns file_name and text"
)


class FolderSurvey:
    """Counts what a folder contains.

    Args:
      folder: the path of the folder, for messages.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.endings, self.names, self.other_table = collections.Counter(), {}, ""
        self.num_images, self.num_captions, self.first_image = 0, 0, ""
        self.unusable_tables, self.unreadable_folders = [], []

    def count_files(self, names: Iterable[str]) -> None:
        """Count the files of a folder by their ending."""
        for name in names:
            ending = get_ending(name)
            self.endings[ending] += 1
            self.names.setdefault(ending, name)
            if not self.other_table and has_table_ending(name) and not is_table(name):
                self.other_table = name

    def count_image(self, path: str, has_caption: bool) -> None:
        """Count an image that can be read."""
        self.num_images += 1
        self.num_captions += has_caption
        self.first_image = self.first_image or path

    def check_usable(self) -> None:
        """Raise UserError if no image was found, or none with a caption."""
        if self.num_captions:
            return
        source = f"--source=folder:{self.folder}"
        if not self.endings:
            extra = f" ({len(self.unreadable_folders)} folders cannot be read)"
            raise UserError(
                f"{source} has no files{extra if self.unreadable_folders else ''}; {_EXPECTED}"
            )
        problem = "no image that can be read"
        if self.num_images:
            images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
            problem = f"{images}, for example {shorten(self.first_image)}, but no captions"
        raise UserError(
            f"{source} has {problem}; found {self._describe_files()}; {_EXPECTED}{self._advise()}"
        )

    def fail_unfound(self, table: str, num_rows: int, first: str, files: list[str]) -> None:
        """Raise UserError because no row of a table names a file of its folder."""
        images = (name for name in files if get_ending(name) in IMAGE_ENDINGS)
        example = next(images, None)
        there = f"has images such as {shorten(example)}" if example else "has no images"
        raise UserError(
            f"--source=folder:{self.folder}: none of the {num_rows} rows of {table} names a file of "
            f"the folder: the first row names {shorten(first)}, but the folder {there}; correct "
            "the table or the path"
        )

    def _describe_files(self) -> str:
        parts = []
        for ending, count in self.endings.most_common(_SHOWN_ENDINGS):
            kind = f".{ending}" if ending else "without an ending"
            parts.append(f"{count} {kind} (for example {shorten(self.names[ending])})")
        if len(self.endings) > _SHOWN_ENDINGS:
            parts.append(f"{len(self.endings) - _SHOWN_ENDINGS} other endings")
        return ", ".join(parts)

    def _advise(self) -> str:
        """Return what the user probably has to do, beginning with "; ", or ""."""
        for ending, source in _OTHER_SOURCES.items():
            if self.endings[ending] and not self.num_images:
                return f"; for .{ending} files use --source={source.format(self.folder)}"
        if self.unusable_tables:
            return f"; {self.unusable_tables[0]}"
        for ending, remedy in _REMEDIES.items():
            if self.endings[ending]:
                return "; " + remedy.format(shorten(self.names[ending]))
        if self.other_table:
            ending = get_ending(self.other_table)
            if self.endings[ending] > 1:
                kind = f"the .{ending} files hold"
                return f"; if {kind} the captions, write them to .txt files or to one table"
            table, name = shorten(self.other_table), f"metadata.{ending}"
            return f"; if {table} is the table of captions, rename it to {name}"
        unreadable = sorted(UNREADABLE_ENDINGS & self.endings.keys())
        if unreadable and not self.num_images:
            package = " or pip install pillow-heif" if "hei" in unreadable[0] else ""
            return f"; convert .{unreadable[0]} files to .png or .jpg{package}"
        return ""
