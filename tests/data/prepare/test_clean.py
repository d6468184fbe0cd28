"""Tests captions and embeddings in the forms in which other programs store them."""

import decimal
import io
import pickle

import numpy as np
import pytest

from t2i_tpu.data.prepare.clean import clean_caption, clean_embedding
from t2i_tpu.data.prepare.rejected import Rejected

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of five characters


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (b"\xef\xbb\xbf a  red\n dog\x00 ", "a red dog"),
        ("ü" * 8192, "ü" * 8192),
        ("Tom &amp; <b>Jerry</b>", "Tom &amp; <b>Jerry</b>"),
        ("e\u0301", "e\u0301"),
        (FAMILY, FAMILY),
        ("a\u200bb", "a\u200bb"),
        *(("ein Käfer".encode(name), "ein Käfer") for name in ("utf-16", "utf-16-be", "utf-32")),
        (["a red square", "something red"], "a red square"),
        (["", None, "\u200b", float("nan"), " third"], "third"),
        (("a", "b"), "a"),
        (np.array(["a", "b"]), "a"),
        ([["a"]], "a"),
        (1999, "1999"),
        (np.int64(7), "7"),
        (1999.0, "1999"),
        (0.5, "0.5"),
        (decimal.Decimal("1.50"), "1.50"),
    ],
)
def test_captions_become_one_line(caption, text):
    assert clean_caption(caption) == text


@pytest.mark.parametrize(
    ("caption", "cause"),
    [
        *((caption, "no_caption") for caption in (None, True, [], [None], float("nan"), [[]])),
        *((caption, "no_caption") for caption in (np.float32("nan"), float("inf"), np.array([]))),
        *((caption, "empty_caption") for caption in ("", b"", " \n\ufeff", "\u200b\u2060\x00\x1b")),
        *((caption, "empty_caption") for caption in ("\u3164", "\ufe0f", "\u2800", [None, " "])),
        *((caption, "caption_not_text") for caption in ({}, {"en": "a"}, [{"raw": "a"}], object())),
        *((caption, "caption_not_utf8") for caption in (b"caf\xe9", "x\udce9", "\ud83d")),
        (b"\xff\xfea", "caption_not_utf8"),
        ("a " * 4097, "caption_too_long"),
    ],
)
def test_other_captions_are_rejected(caption, cause):
    with pytest.raises(Rejected, match=f"^{cause}$"):
        clean_caption(caption)


def save(array, **options):
    """Return an array as the bytes of an .npy file."""
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    "embedding",
    [
        [0.5, -2, 3],
        *(np.array([0.5, -2, 3], dtype) for dtype in ("<f2", ">f4", np.float64)),
        np.array([[0.5, -2, 3]]),
        np.array([[[0.5], [-2], [3]]]),
        save(np.array([0.5, -2, 3])),
        save(np.array([[0.5, -2, 3]], np.float16)),
    ],
)
def test_embeddings_become_float32(embedding):
    values = clean_embedding(embedding)
    assert values.dtype == np.float32
    assert values.tolist() == [0.5, -2, 3]


def test_integers_become_float32():
    assert clean_embedding(np.array([1, 2], np.uint8)).tolist() == [1, 2]


def save_npz():
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    return content.getvalue()


@pytest.mark.parametrize(
    "embedding",
    [
        *("[0.6, 0.8]", ["0.6", "0.8"], [0.6, None], [[1, 2], [3]], {"values": [1.0]}, True, 0.5),
        *([], np.ones((0, 4)), np.float32(1), np.ones((2, 2)), [np.nan, 1], [1e300, 1], [True]),
        np.array([1j, 2]),
        *(b"", b"PK\x03\x04", b"\x93NUMPY", save(np.ones(3))[:-1], save_npz(), save(np.float32(1))),
        save(np.array([{}, None]), allow_pickle=True),
        pickle.dumps([1.0, 2.0]),
    ],
)
def test_other_embeddings_are_rejected(embedding):
    with pytest.raises(Rejected, match="^bad_embedding$"):
        clean_embedding(embedding)
