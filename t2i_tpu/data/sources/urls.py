"""Downloads the images of parquet lists of URLs, such as LAION's, with img2dataset (extra `urls`)."""

import contextlib
import itertools
import os
import re
import string
import tempfile
import types
import urllib.parse
import urllib.request
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from t2i_tpu.data.sources.bounded_urlopen import urlopen
from t2i_tpu.data.sources.parquet_columns import choose_columns, find_simple_columns
from t2i_tpu.data.sources.patterns import expand_pattern, name_files
from t2i_tpu.data.sources.source import Item, Unit, select_columns
from t2i_tpu.data.sources.tables.parquet_file import iterate_rows, open_parquet
from t2i_tpu.errors import UserError

_DOWNLOAD_ROWS = 256  # number of rows to download at a time
# A row group has to be decoded from its start, so a longer one is not divided into more than 16 units.
_LONG_GROUP_ROWS = 16 * _DOWNLOAD_ROWS
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
      columns: the columns, of any file, that `find_cause` uses.
    """

    def __init__(
        self,
        pattern: str,
        find_cause: Callable[[Any, Mapping[str, Any]], str | None],
        columns: Container[str],
    ):
        self.pattern, self.find_cause, self.columns = pattern, find_cause, columns

    def list_units(self) -> Iterator[Unit]:
        _import_downloader()  # raises an error now if img2dataset is not installed
        for path, name in name_files(expand_pattern(self.pattern, "urls")).items():
            with open_parquet(path) as file:
                sizes = _list_group_sizes(file)
                if sum(sizes):
                    _choose_columns(path, file.schema_arrow)
            for start, stop in _divide_rows(sizes):
                yield {"file": path, "name": name, "start": start, "stop": stop}

    def list_files(self, unit: Unit) -> list[str]:
        return [unit["file"]]

    def read(self, unit: Unit) -> Iterator[Item]:
        with open_parquet(unit["file"]) as file:
            url, captions = _choose_columns(unit["file"], file.schema_arrow)
            others = [
                name for name in find_simple_columns(file.schema_arrow) if name in self.columns
            ]
            names = list(dict.fromkeys((url, *captions, *others)))
            rows = enumerate(_iterate_rows(file, names, unit["start"], unit["stop"]), unit["start"])
            while chunk := list(itertools.islice(rows, _DOWNLOAD_ROWS)):
                pairs = [
                    self._make_item(f"{unit['name']}-{index:08d}", row, url, captions)
                    for index, row in chunk
                ]
                yield from _add_images(pairs)

    def read_label_names(self) -> None:
        return None

    def _make_item(
        self, key: str, row: Mapping[str, Any] | None, url: str, captions: list[str]
    ) -> tuple[Item, str]:
        """Return the item of a row without its image, and the image's URL."""
        if row is None:
            return Item(key, problem="damaged_row_group"), ""
        caption = [row[name] for name in captions]
        item = Item(key, None, caption[0] if len(caption) == 1 else caption)
        item.columns = select_columns(row)
        address, problem = _clean_url(row[url])
        item.problem = self.find_cause(item.caption, item.columns) or problem
        return item, address


def _choose_columns(path: str, schema: Any) -> tuple[str, list[str]]:
    """Return the columns of URLs and captions. Raises UserError if there are none."""
    (url, *_) = choose_columns(path, schema, "url")
    return url, choose_columns(path, schema, "caption")


def _list_group_sizes(file: Any) -> list[int]:
    """Return the number of rows of each row group."""
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _divide_rows(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the units (start, stop) of a file with row groups of these numbers of rows."""
    if max(sizes, default=0) <= _LONG_GROUP_ROWS:
        sizes = [sum(sizes)]
        lengths = [_DOWNLOAD_ROWS]
    else:
        lengths = [max(-(-size // 16), _DOWNLOAD_ROWS) for size in sizes]
    first = 0
    for size, length in zip(sizes, lengths, strict=True):
        for start in range(first, first + size, length):
            yield start, min(start + length, first + size)
        first += size


def _iterate_rows(
    file: Any, columns: list[str], start: int, stop: int
) -> Iterator[dict[str, Any] | None]:
    """Yield the rows [start, stop) of a file, and read only the row groups that contain them."""
    first = 0
    for group, size in enumerate(_list_group_sizes(file)):
        lower, upper = max(start - first, 0), min(stop - first, size)
        if lower < upper:
            yield from iterate_rows(file, group, columns, _DOWNLOAD_ROWS, lower, upper)
        first += size


def _clean_url(url: Any) -> tuple[str, str | None]:
    """Return a URL as it can be requested, and the cause for which it cannot be used, or None."""
    if isinstance(url, bytes):
        url = url.decode("utf-8", "surrogateescape")
    if not url or not url.strip():
        return "", "no_url"
    try:
        url = urllib.parse.quote(url.strip(), safe=string.punctuation)
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "", "bad_url"
    is_web = parts.scheme in ("http", "https") and parts.hostname
    return url, None if is_web else "bad_url"


def _add_images(pairs: list[tuple[Item, str]]) -> Iterator[Item]:
    """Yield the items after downloading the images of those that are not rejected."""
    pending = [(item, url) for item, url in pairs if not item.problem]
    downloads = _download([url for _, url in pending])
    for (item, _), (image, error) in zip(pending, downloads, strict=True):
        item.image = image
        item.problem = None if image else _classify_error(error)
    yield from (item for item, _ in pairs)


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
        number_sample_per_shard=_DOWNLOAD_ROWS,
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
