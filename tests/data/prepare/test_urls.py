"""Downloads from a server that does everything wrong: each URL ends in one counted outcome."""

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
from t2i_tpu.data.sources import urls
from t2i_tpu.errors import UserError
from tests.data.prepare.conftest import digest, png
from tests.data.prepare.test_images import JPEG, bomb

pytestmark = pytest.mark.urls
SECONDS = 4


@pytest.fixture
def server(emoji, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(urls, "_SECONDS", SECONDS)
    monkeypatch.setattr(urls, "_TIMEOUT", 2)
    monkeypatch.setattr(urls, "_BYTES", 1 << 20)
    flaky, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            what, _, number = self.path[1:].partition("/")
            image = png(emoji[int(number or 0)][1])
            getattr(self, what)(image)

        def answer(self, content, status=200, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def good(self, image):
            self.answer(image, Content_Length=str(len(image)))

        def slow(self, image):
            self.answer(image[:100], Content_Length=str(len(image)))
            time.sleep(0.7)
            self.wfile.write(image[100:])

        def flaky(self, image):
            flaky[self.path] = flaky.get(self.path, 0) + 1
            if flaky[self.path] < 3:
                self.answer(b"", 503)
            else:
                self.good(image)

        def missing(self, image):
            self.answer(b"gone", 404)

        def forbidden(self, image):
            self.answer(b"", 403)

        def reset(self, image):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

        def html(self, image):
            self.answer(b"<html>not found</html>", Content_Type="image/png")

        def empty(self, image):
            self.answer(b"")

        def short(self, image):
            self.answer(image[:-50], Content_Length=str(len(image)))

        def truncated(self, image):
            self.answer(JPEG[: len(JPEG) * 2 // 3])

        def bomb(self, image):
            self.answer(bomb())

        def large(self, image):
            self.answer(image + bytes(2 << 20))

        def silent(self, image):
            time.sleep(4)

        def endless(self, image):
            self.answer(image)
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
            self.answer(image, X_Robots_Tag="noai")

        def away(self, image):
            self.answer(b"", 302, Location=f"/good/{self.path.rpartition('/')[2]}")

        def round(self, image):
            self.answer(b"", 302, Location=self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield types.SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}", asked=asked)
    server.shutdown()
    server.server_close()


BAD = {
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
    "round": "http_302",
}


def test_every_url_ends_in_one_outcome(server, emoji, prepared, tmp_path):
    good = [f"{server.address}/{kind}/{index}" for index, kind in
            enumerate(["good"] * 30 + ["slow"] * 4 + ["flaky"] * 4 + ["away"] * 2)]  # fmt: skip
    bad = [f"{server.address}/{what}" for what in BAD] + ["not a url", "http://127.0.0.1:1/x", None]
    table = {
        "URL": good + bad,
        "TEXT": [emoji[index][2] for index in range(len(good))] + ["x"] * len(bad),
        "similarity": np.linspace(0.3, 0.4, len(good) + len(bad)),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "laion.parquet", row_group_size=20)
    start = time.monotonic()
    manifest, splits = prepared(
        f"urls:{tmp_path}/laion.parquet", filters=Filters(min_similarity=0.2)
    )
    assert time.monotonic() - start < 12 * SECONDS  # three tries of what never ends
    wanted = dict.fromkeys(BAD.values(), 0) | {"train": len(good), "download_failed": 3}
    for cause in BAD.values():
        wanted[cause] += 1
    assert manifest.preparation["outcomes"] == dict(sorted(wanted.items()))
    found = sorted((digest(one["image"]), one["caption"].decode()) for one in splits["train"])
    assert found == sorted((digest(image), text) for _, image, text in emoji[: len(good)])


def test_what_its_list_rules_out_is_not_downloaded(server, emoji, prepared, tmp_path):
    rows = [  # (similarity, width, height, caption, outcome)
        (0.4, 64, 64, emoji[0][2], "train"),
        (0.4, None, None, emoji[1][2], "train"),
        (0.4, 0, -1, emoji[2][2], "train"),
        (0.1, 64, 64, "x", "low_similarity"),
        (None, 64, 64, "x", "no_similarity"),
        (0.4, 64, 10, "x", "too_small"),
        (0.4, 64, 64, " ", "no_caption"),
    ]
    similarities, widths, heights, captions, outcomes = zip(*rows, strict=True)
    table = {
        "URL": [f"{server.address}/good/{index}" for index in range(len(rows))],
        "TEXT": captions,
        "similarity": similarities,
        "WIDTH": widths,
        "HEIGHT": heights,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "laion.parquet")
    source, filters = f"urls:{tmp_path}/laion.parquet", Filters(min_similarity=0.2, min_side=20)
    manifest, _ = prepared(source, filters=filters, num_streams=1)
    assert manifest.preparation["outcomes"] == collections.Counter(outcomes)
    assert sorted(server.asked) == ["/good/0", "/good/1", "/good/2"]


def test_a_list_without_urls(tmp_path, prepared):
    pyarrow.parquet.write_table(pyarrow.table({"link": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column url or URL or image_url, only link"):
        prepared(f"urls:{tmp_path}/a.parquet")
