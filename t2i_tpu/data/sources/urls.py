"""A parquet list of URLs and captions, as LAION's are: img2dataset downloads them (extra `urls`).

img2dataset waits for a body as long as bytes of it come. So it gets an `urlopen` that ends: after
a number of bytes, and after a number of seconds for all of a response.
"""

import contextlib
import http.client
import os
import re
import socket
import tempfile
import threading
import types
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t2i_tpu.data.sources.parquet import first_of, open_parquet
from t2i_tpu.data.sources.source import Item, Unit, files_of, stem_of
from t2i_tpu.errors import UserError

_URLS = ("url", "URL", "image_url")
_CAPTIONS = ("caption", "TEXT", "text")
_ROWS = 256  # of a unit
_THREADS, _RETRIES = 16, 2
_TIMEOUT = 10  # seconds without a byte
_SECONDS = float(os.environ.get("T2I_TPU_URL_SECONDS", "60"))  # for one response
_BYTES = 1 << 25


class UrlsSource:
    """A unit is some rows; once it is done, what failed in it is counted and not tried again.

    Args:
      unwanted: (caption, columns) -> why a row need not be downloaded, or None.
    """

    def __init__(
        self, pattern: str, unwanted: Callable[[str | None, Mapping[str, Any]], str | None]
    ):
        self.pattern, self.unwanted = pattern, unwanted

    def units(self) -> Iterator[Unit]:
        _img2dataset()
        for file in files_of(self.pattern, "urls"):
            with open_parquet(file) as table:
                names, count = table.schema_arrow.names, table.metadata.num_rows
            if not first_of(names, _URLS):
                raise UserError(
                    f"{file} has no column {' or '.join(_URLS)}, only {', '.join(names)}"
                )
            for start in range(0, count, _ROWS):
                yield {"file": file, "start": start}

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = _rows(unit["file"], unit["start"])
        url = first_of(rows[0], _URLS)
        caption = first_of(rows[0], _CAPTIONS)
        items = []
        for number, row in enumerate(rows, unit["start"]):
            text = row[caption] if caption else None
            columns = {n: v for n, v in row.items() if isinstance(v, (int, float, str))}
            key = f"{stem_of(unit['file'])}-{number:08d}"
            problem = self.unwanted(text, columns)
            items.append(Item(key, None, text, columns=columns, problem=problem))
        wanted = [(item, row) for item, row in zip(items, rows, strict=True) if not item.problem]
        downloaded = _download([str(row[url] or "") for _, row in wanted])
        for (item, _), (image, error) in zip(wanted, downloaded, strict=True):
            item.image, item.problem = image, None if image else _cause(error)
        yield from items

    def label_names(self) -> None:
        return None


def _rows(file: str, start: int) -> list[dict[str, Any]]:
    """Rows [start, start + _ROWS), of which only their row groups are read."""
    found, begin = [], 0
    with open_parquet(file) as table:
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            lower, upper = max(start - begin, 0), min(start + _ROWS - begin, count)
            if lower < upper:
                found += table.read_row_group(group).slice(lower, upper - lower).to_pylist()
            begin += count
    return found


def _download(urls: list[str]) -> list[tuple[bytes | None, str | None]]:
    """(content, error) of each URL, by img2dataset's own Downloader."""
    import pyarrow

    module = _img2dataset()
    module.urllib = types.SimpleNamespace(
        request=types.SimpleNamespace(Request=urllib.request.Request, urlopen=_urlopen)
    )
    found = {}

    class Collect:
        """In place of img2dataset's writers: keeps what it is given."""

        def __init__(self, *_):
            pass

        def write(self, image, key, _, meta):
            found[int(key)] = (image or None, meta["error_message"] or "empty")

        def close(self):
            pass

    with tempfile.TemporaryDirectory() as folder:
        table = pyarrow.table({"url": urls})
        path = os.path.join(folder, "urls.feather")
        with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        download = module.Downloader(
            sample_writer_class=Collect,
            resizer=lambda stream, _=None: (stream.getvalue(), 0, 0, 0, 0, None),
            thread_count=_THREADS,
            save_caption=False,
            extract_exif=False,
            output_folder=folder,
            column_list=["url"],
            timeout=_TIMEOUT,
            number_sample_per_shard=_ROWS,
            oom_shard_count=5,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="jpg",
            retries=_RETRIES,
            user_agent_token=None,
            disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
        )
        with contextlib.redirect_stdout(None):
            download.download_shard((0, path))
    return [found.get(index, (None, "lost by img2dataset")) for index in range(len(urls))]


def _cause(error: str) -> str:
    status = re.search(r"HTTP Error (\d{3})", error)
    if status:
        return f"http_{status[1]}"
    for mark, cause in (
        ("timed out", "download_timeout"),
        ("too large", "download_too_large"),
        ("cut short", "download_cut_short"),
        ("X-Robots-Tag", "disallowed_by_site"),
        ("empty", "empty_image"),
    ):
        if mark in error:
            return cause
    return "download_failed"


class _Response:
    """What img2dataset asks of a response, with its body read already."""

    def __init__(self, headers, content):
        self.headers, self.read = headers, lambda: content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def _urlopen(request: urllib.request.Request, timeout: float) -> _Response:
    connections, over = [], threading.Event()

    def end():
        over.set()
        for connection in connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.held.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(_SECONDS, end)
    watch.start()
    try:
        handlers = [_Http(connections), _Https(connections)]
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            content = response.read(_BYTES + 1)
    except Exception:
        if over.is_set():
            raise TimeoutError("timed out") from None
        raise
    finally:
        watch.cancel()
    if over.is_set():
        raise TimeoutError("timed out")
    if len(content) > _BYTES:
        raise ValueError(f"too large: more than {_BYTES} bytes")
    if len(content) < int(response.headers.get("Content-Length") or 0):
        raise ValueError("cut short")
    return _Response(response.headers, content)


class _Http(urllib.request.HTTPHandler):
    """Opens connections that are told of in a list."""

    connection = http.client.HTTPConnection

    def __init__(self, opened: list):
        super().__init__()
        self.opened = opened

    def http_open(self, request):
        return self.do_open(self._connect, request)

    def _connect(self, *arguments, **options):
        self.opened.append(_holding_socket(self.connection(*arguments, **options)))
        return self.opened[-1]


class _Https(_Http, urllib.request.HTTPSHandler):
    connection = http.client.HTTPSConnection

    def https_open(self, request):
        return self.do_open(self._connect, request)


def _holding_socket(connection):
    """urllib takes the socket away from a connection once its headers are there; `held` stays."""
    connect = connection.connect

    def connect_and_hold():
        connect()
        connection.held = connection.sock

    connection.connect = connect_and_hold
    return connection


def _img2dataset():
    try:
        import img2dataset.downloader
    except ImportError:
        raise UserError("urls needs img2dataset; pip install -e '.[urls]'") from None
    return img2dataset.downloader
