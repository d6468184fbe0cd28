"""Pages are one file, escape text, and show pictures as they are."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from t2i_tpu import html_page
from t2i_tpu.storage import outputs

TEXT = "<b>\"a\" & 'b'</b>"
# Elements without an end tag.
VOID = {"img", "meta", "input", "br"}


class Reader(html.parser.HTMLParser):
    """Collects the text and the attributes of a page, and checks that its elements are nested."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_text_is_escaped_everywhere(picture):
    parts = [
        html_page.make_heading(TEXT),
        html_page.make_paragraph(TEXT),
        html_page.make_list([TEXT]),
        html_page.make_definitions([(TEXT, TEXT)]),
        html_page.make_table([[TEXT, TEXT]], [TEXT, TEXT]),
        html_page.make_sheet([(picture, TEXT)]),
        html_page.make_plot(b"<svg/>", TEXT),
    ]
    reader = Reader(html_page.make_page(TEXT, parts))
    # The title, the first heading, and one for each argument but the description.
    assert reader.text.count(TEXT) == 2 + 3 + 2 + 4 + 1 + 1
    assert [values["alt"] for tag, values in reader.tags if tag == "img"] == ["", TEXT]
    assert "b" not in dict(reader.tags)


def test_page_loads_nothing_and_carries_the_mark(picture):
    page = html_page.make_page("title", [html_page.make_picture(picture)])
    assert outputs.MARK in page[:1000]
    assert not re.search(r"https?:|@import|<link|url\(", page)
    sources = [values["src"] for _, values in Reader(page).tags if "src" in values]
    assert len(sources) == 1 and sources[0].startswith("data:")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_keep_their_pixels(picture, mode):
    picture = picture.convert(mode)
    (tag,) = [
        values for tag, values in Reader(html_page.make_picture(picture)).tags if tag == "img"
    ]
    content = base64.b64decode(tag["src"].removeprefix("data:image/png;base64,"), validate=True)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(picture))


def test_long_captions_are_cut(picture):
    text = "".join(Reader(html_page.make_picture(picture, "word " * 100)).text)
    assert text.startswith("word word") and text.endswith("...") and len(text) == 80
