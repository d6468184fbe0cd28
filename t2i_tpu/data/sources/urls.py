"""Downloads the images of parquet lists of URLs, such as LAION's, with img2dataset (extra `urls`)."""

import contextlib
import os
import re
import tempfile
import types
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t2i_tpu.data.sources.bounded_urlopen import urlopen
from t2i_tpu.data.sources.parquet_file import open_parquet
from t2i_tpu.data.sources.source import (
    Item,
    Unit,
    expand_pattern,
    find_column,
    get_stem,
    select_columns,
)
from t2i_tpu.errors import UserError

_URL_COLUMNS = ("url", "URL", "image_url")
_CAPTION_COLUMNS = ("caption", "TEXT", "text")
_UNIT_ROWS = 256
_THREADS = 16
_RETRIES = 2
TIMEOUT_SECONDS = 10  # maximum time between two bytes of a response

# Parts of img2dataset's error messages, and the causes under which these errors are counted.
_CAUSES = {
    "timed out": "download_timeout",
    "too large": "download_too_large",
    "cut short": "download_cut_short",
    "X-Robots-Tag": "disallowed_by_site",
    "empty": "empty_image",
}


class UrlsSource:
    """Parquet files with columns of URLs and captions. A unit is a range of rows of a file.

    A failed download is counted, and is not tried again after its unit is finished.

    Args:
      pattern: a path or pattern of the parquet files.
      find_cause: (caption, columns) -> the cause for which a row is rejected without a download, or
        None.
    """

    def __init__(
        self, pattern: str, find_cause: Callable[[str | None, Mapping[str, Any]], str | None]
    ):
        self.pattern, self.find_cause = pattern, find_cause

    def list_units(self) -> Iterator[Unit]:
        _import_downloader()  # raises an error now if img2dataset is not installed
        for path in expand_pattern(self.pattern, "urls"):
            with open_parquet(path) as file:
                names, num_rows = file.schema_arrow.names, file.metadata.num_rows
            if not find_column(names, _URL_COLUMNS):
                raise UserError(
                    f"{path} has no column {' or '.join(_URL_COLUMNS)}, only {', '.join(names)}; "
                    "rename the column of URLs"
                )
            for start in range(0, num_rows, _UNIT_ROWS):
                yield {"file": path, "start": start}

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = _read_rows(unit["file"], unit["start"])
        url_column = find_column(rows[0], _URL_COLUMNS)
        caption_column = find_column(rows[0], _CAPTION_COLUMNS)

        # Make the items, and find those that are rejected without a download.
        items = []
        for index, row in enumerate(rows, unit["start"]):
            key = f"{get_stem(unit['file'])}-{index:08d}"
            caption = row[caption_column] if caption_column else None
            columns = select_columns(row)
            problem = self.find_cause(caption, columns)
            items.append(Item(key, None, caption, columns=columns, problem=problem))

        # Download the images of the others.
        pending = [(item, row) for item, row in zip(items, rows, strict=True) if not item.problem]
        downloads = _download([str(row[url_column] or "") for _, row in pending])
        for (item, _), (image, error) in zip(pending, downloads, strict=True):
            item.image = image
            item.problem = None if image else _classify_error(error)
        yield from items

    def read_label_names(self) -> None:
        return None


def _read_rows(path: str, start: int) -> list[dict[str, Any]]:
    """Return the rows [start, start + _UNIT_ROWS), reading only the row groups that contain them."""
    rows, group_start = [], 0
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            lower = max(start - group_start, 0)
            upper = min(start + _UNIT_ROWS - group_start, count)
            if lower < upper:
                rows += file.read_row_group(group).slice(lower, upper - lower).to_pylist()
            group_start += count
    return rows


def _download(urls: list[str]) -> list[tuple[bytes | None, str | None]]:
    """Download URLs, and return (content, error) for each; one of the two is None."""
    import pyarrow

    results = {}

    class ResultWriter:
        """Replaces img2dataset's writers, and stores the results in the dict above."""

        def __init__(self, *_):
            pass

        def write(self, image, key, caption, meta):
            error = meta["error_message"] or "empty"
            results[int(key)] = (image, None) if image else (None, error)

        def close(self):
            pass

    with tempfile.TemporaryDirectory() as folder:
        table = pyarrow.table({"url": urls})
        path = os.path.join(folder, "urls.feather")
        with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        downloader = _make_downloader(ResultWriter, folder)
        with contextlib.redirect_stdout(None):
            downloader.download_shard((0, path))
    no_result = (None, "img2dataset returned no result")
    return [results.get(index, no_result) for index in range(len(urls))]


def _make_downloader(writer_class: type, folder: str):
    """Return an img2dataset Downloader that does not change images and limits each response."""
    module = _import_downloader()
    # img2dataset has no option that limits the time or the size of a response.
    module.urllib = types.SimpleNamespace(
        request=types.SimpleNamespace(Request=urllib.request.Request, urlopen=urlopen)
    )
    return module.Downloader(
        sample_writer_class=writer_class,
        resizer=_keep_size,
        thread_count=_THREADS,
        save_caption=False,
        extract_exif=False,
        output_folder=folder,
        column_list=["url"],
        timeout=TIMEOUT_SECONDS,
        number_sample_per_shard=_UNIT_ROWS,
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=_RETRIES,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )


def _keep_size(stream, blurring_bbox=None):
    """Replace img2dataset's resizer: return the unchanged content, four sizes and no error."""
    return stream.getvalue(), 0, 0, 0, 0, None


def _classify_error(error: str) -> str:
    """Return the cause under which a failed download is counted."""
    if status := re.search(r"HTTP Error (\d{3})", error):
        return f"http_{status[1]}"
    for part, cause in _CAUSES.items():
        if part in error:
            return cause
    return "download_failed"


def _import_downloader():
    """Return the module img2dataset.downloader. Raises UserError if it is not installed."""
    try:
        import img2dataset.downloader
    except ImportError:
        raise UserError("--source=urls needs img2dataset; pip install -e '.[urls]'") from None
    return img2dataset.downloader
