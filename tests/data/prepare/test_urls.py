"""Tests downloads from a server that fails in many ways: each URL has exactly one outcome."""

import collections
import http.server
import socket
import threading
import time
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.data.sources import bounded_urlopen, urls
from t2i_tpu.errors import UserError
from tests.data.prepare.source_files import compute_digest, encode_png
from tests.data.prepare.test_images import JPEG, make_bomb

pytestmark = pytest.mark.urls
RESPONSE_SECONDS = 4


class Handler(http.server.BaseHTTPRequestHandler):
    """Responds to GET /BEHAVIOR/INDEX by calling the method BEHAVIOR with an image of the server."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.paths.append(self.path)
        behavior, _, index = self.path[1:].partition("?")[0].partition("/")
        image = encode_png(self.server.images[int(index or 0)])
        getattr(self, behavior)(image)

    def respond(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def good(self, image):
        self.respond(image, Content_Length=str(len(image)))

    def slow(self, image):
        self.respond(image[:100], Content_Length=str(len(image)))
        time.sleep(0.7)
        self.wfile.write(image[100:])

    def flaky(self, image):
        """Fails twice, and then sends the image."""
        if self.server.paths.count(self.path) < 3:
            self.respond(b"", 503)
        else:
            self.good(image)

    def missing(self, image):
        self.respond(b"gone", 404)

    def forbidden(self, image):
        self.respond(b"", 403)

    def reset(self, image):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def html(self, image):
        self.respond(b"<html>not found</html>", Content_Type="image/png")

    def empty(self, image):
        self.respond(b"")

    def short(self, image):
        self.respond(image[:-50], Content_Length=str(len(image)))

    def truncated(self, image):
        self.respond(JPEG[: len(JPEG) * 2 // 3])

    def bomb(self, image):
        self.respond(make_bomb())

    def large(self, image):
        self.respond(image + bytes(2 << 20))

    def silent(self, image):
        time.sleep(4)

    def endless(self, image):
        self.respond(image)
        self.drip()

    def endless_header(self, image):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        self.drip()

    def drip(self):
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def robots(self, image):
        self.respond(image, X_Robots_Tag="noai")

    def redirect(self, image):
        self.respond(b"", 302, Location=f"/good/{self.path.rpartition('/')[2]}")

    def redirect_to_itself(self, image):
        self.respond(b"", 302, Location=self.path)


CAUSES = {
    "missing": "http_404",
    "forbidden": "http_403",
    "reset": "download_failed",
    "html": "not_an_image",
    "empty": "empty_image",
    "short": "download_cut_short",
    "truncated": "truncated_image",
    "bomb": "decompression_bomb",
    "large": "download_too_large",
    "silent": "download_timeout",
    "endless": "download_timeout",
    "endless_header": "download_timeout",
    "robots": "disallowed_by_site",
    "redirect_to_itself": "http_302",
}


@pytest.fixture
def server(emoji, monkeypatch):
    """A server on this machine, with its `address` and the list `paths` of the requested paths."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(bounded_urlopen, "RESPONSE_SECONDS", RESPONSE_SECONDS)
    monkeypatch.setattr(bounded_urlopen, "RESPONSE_BYTES", 1 << 20)
    monkeypatch.setattr(urls, "TIMEOUT_SECONDS", 2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.images = [image for _, image, _ in emoji]
    server.paths = []
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield types.SimpleNamespace(address=address, paths=server.paths)
    server.shutdown()
    server.server_close()


def write_list(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)


def test_every_url_has_one_outcome(server, emoji, prepare_from, tmp_path):
    behaviors = ["good"] * 30 + ["slow"] * 4 + ["flaky"] * 4 + ["redirect"] * 2
    good = [f"{server.address}/{name}/{index}" for index, name in enumerate(behaviors)]
    bad = [f"{server.address}/{name}" for name in CAUSES]
    unreachable = [f"http://127.0.0.1:{port}/x" for port in (1, 2)]
    no_urls = ["not a url", "file:///etc/hostname", "ftp://127.0.0.1/x", "http://[x", "//a/b"]
    unusable = {None: "no_url", " ": "no_url"} | dict.fromkeys(no_urls, "bad_url")
    bad += [*unreachable, *unusable]
    num_bad = len(bad)
    columns = {
        "URL": good + bad,
        "TEXT": [caption for _, _, caption in emoji[: len(good)]] + ["x"] * num_bad,
        "similarity": np.linspace(0.3, 0.4, len(good) + num_bad),
        "embedding": [[1.0]] * (len(good) + num_bad),
    }
    write_list(tmp_path / "laion.parquet", columns, row_group_size=20)
    start = time.monotonic()
    manifest, splits = prepare_from(
        f"urls:{tmp_path}/laion.parquet", filters=Filters(min_similarity=0.2)
    )
    # Each response that never ends is tried three times.
    assert time.monotonic() - start < 12 * RESPONSE_SECONDS
    expected = collections.Counter(CAUSES.values())
    expected.update(unusable.values())
    expected["download_failed"] += len(unreachable)
    expected["train"] = len(good)
    assert manifest.preparation["outcomes"] == expected
    pairs = [(compute_digest(each["image"]), each["caption"].decode()) for each in splits["train"]]
    assert sorted(pairs) == sorted(
        (compute_digest(image), caption) for _, image, caption in emoji[: len(good)]
    )


def test_rows_that_are_rejected_anyway_are_not_downloaded(server, emoji, prepare_from, tmp_path):
    rows = [  # similarity, width, height, caption, outcome
        (0.4, 64, 64, emoji[0][2], "train"),
        (0.4, None, None, emoji[1][2], "train"),
        (0.4, 0, -1, emoji[2][2], "train"),
        (0.1, 64, 64, "x", "low_similarity"),
        (None, 64, 64, "x", "no_similarity"),
        (0.4, 64, 10, "x", "too_small"),
        (0.4, 64, 64, " ", "empty_caption"),
    ]
    similarities, widths, heights, captions, outcomes = zip(*rows, strict=True)
    columns = {
        "URL": [f"{server.address}/good/{index}" for index in range(len(rows))],
        "TEXT": captions,
        "similarity": similarities,
        "WIDTH": widths,
        "HEIGHT": heights,
    }
    write_list(tmp_path / "laion.parquet", columns)
    source, filters = f"urls:{tmp_path}/laion.parquet", Filters(min_similarity=0.2, min_side=20)
    manifest, _ = prepare_from(source, filters=filters, num_streams=1)
    assert manifest.preparation["outcomes"] == collections.Counter(outcomes)
    assert sorted(server.paths) == ["/good/0", "/good/1", "/good/2"]


def test_unusual_urls_are_requested_as_browsers_do(server, emoji, prepare_from, tmp_path):
    """Spaces and other characters are escaped, and a URL may occur twice."""
    paths = ["good/0?a b", "good/1?ü ", "good/2?%20", "good/3", "good/3"]
    columns = {
        "url": [f" {server.address}/{path}" for path in paths],
        "captions": [[caption, "x"] for _, _, caption in emoji[: len(paths)]],
    }
    write_list(tmp_path / "a.parquet", columns)
    manifest, _ = prepare_from(f"urls:{tmp_path}/a.parquet", num_streams=1)
    assert manifest.preparation["outcomes"] == {"train": 5}
    expected = ["/good/0?a%20b", "/good/1?%C3%BC", "/good/2?%20", "/good/3", "/good/3"]
    assert sorted(server.paths) == expected


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"sound": ["x"], "text": ["x"]}, "no column of URLs; its columns are sound, text"),
        ({"url": [1], "text": ["x"]}, "'url' holds numbers, not URLs as text"),
        ({"url": ["x"], "sound": ["x"]}, "no column of captions; its columns are url, sound"),
    ],
)
def test_list_without_urls_or_captions_is_an_error(tmp_path, prepare_from, columns, words):
    write_list(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=words):
        prepare_from(f"urls:{tmp_path}/a.parquet")
