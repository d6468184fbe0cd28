"""Each filter by itself: what passes, what does not, and under which name it is counted."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2i_tpu.data.prepare import filters
from t2i_tpu.data.prepare.duplicates import Seen
from t2i_tpu.data.prepare.filters import Filters, clean_caption, script_share
from t2i_tpu.data.prepare.rejected import Lost
from t2i_tpu.data.prepare.unit import perceptual_hash

CAPTION = "a small red dog"


@pytest.mark.parametrize(
    ("name", "value", "size", "caption", "columns", "cause"),
    [
        ("max_aspect_ratio", 1.5, (151, 100), CAPTION, {}, "aspect_ratio"),
        ("max_aspect_ratio", 1.5, (100, 151), CAPTION, {}, "aspect_ratio"),
        ("max_aspect_ratio", 1.5, (150, 100), CAPTION, {}, None),
        ("min_side", 64, (63, 100), CAPTION, {}, "too_small"),
        ("min_side", 64, (64, 64), CAPTION, {}, None),
        ("min_words", 5, (64, 64), CAPTION, {}, "too_few_words"),
        ("min_words", 4, (64, 64), CAPTION, {}, None),
        ("max_words", 3, (64, 64), CAPTION, {}, "too_many_words"),
        ("max_words", 4, (64, 64), CAPTION, {}, None),
        ("script", "latin", (64, 64), "собака", {}, "other_script"),
        ("script", "latin", (64, 64), "ein Käfer, 12%!", {}, None),
        ("script", "cjk", (64, 64), "小さい赤い犬", {}, "other_script"),  # half of it is hiragana
        ("min_similarity", 0.3, (64, 64), CAPTION, {"similarity": 0.29}, "low_similarity"),
        ("min_similarity", 0.3, (64, 64), CAPTION, {"SIMILARITY": 0.3}, None),
        ("min_similarity", 0.3, (64, 64), CAPTION, {}, "no_similarity"),
        ("min_similarity", 0.3, (64, 64), CAPTION, {"similarity": float("nan")}, "low_similarity"),
        ("min_aesthetic", 6, (64, 64), CAPTION, {"AESTHETIC_SCORE": "5.9"}, "low_aesthetic_score"),
        ("min_aesthetic", 6, (64, 64), CAPTION, {"aesthetic": 6.5}, None),
    ],
)  # fmt: skip
def test_before_decoding(name, value, size, caption, columns, cause):
    filters.check_before_decoding(Filters(), size, caption, columns)  # off
    chosen = dataclasses.replace(Filters(), **{name: value})
    if cause is None:
        filters.check_before_decoding(chosen, size, caption, columns)
    else:
        with pytest.raises(Lost, match=f"^{cause}$"):
            filters.check_before_decoding(chosen, size, caption, columns)


def test_white():
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[:2] = 10
    filters.check_pixels(Filters(max_white=0.75), pixels)
    with pytest.raises(Lost, match="too_white"):
        filters.check_pixels(Filters(max_white=0.74), pixels)


def test_captions_become_one_line():
    assert clean_caption(b"\xef\xbb\xbf a  red\n dog\x00 ") == "a red dog"
    assert clean_caption("ü" * 8192) == "ü" * 8192
    for caption, cause in {
        None: "no_caption",
        b"": "no_caption",
        " \n\ufeff": "no_caption",
        b"caf\xe9": "caption_not_utf8",
        "x\udce9": "caption_not_utf8",
        "a " * 4097: "caption_too_long",
    }.items():
        with pytest.raises(Lost, match=f"^{cause}$"):
            clean_caption(caption)


def test_share_of_a_script():
    assert script_share("abc где", "latin") == 0.5
    assert script_share("12 + 3", "latin") == 1


def bits(value):
    return value.to_bytes(8, "big")


def test_duplicates_in_their_order_of_causes():
    seen = Seen(distance=2)
    assert seen.cause("a", b"1", bits(0)) is None
    assert seen.cause("a", b"2", bits(2**40)) == "duplicate_key"
    assert seen.cause("b", b"1", bits(2**40)) == "duplicate_image"
    assert seen.cause("c", b"3", bits(0b11 << 62)) == "near_duplicate"
    assert seen.cause("d", None, None) is None
    seen.close()


@pytest.mark.parametrize("distance", [0, 1, 3, 7])
def test_near_is_what_a_search_through_all_says(distance):
    rng = np.random.default_rng(distance)
    centers = [int(value) for value in rng.integers(0, 2**63, 12, dtype=np.uint64) * 2 + 1]
    kept, seen = [], Seen(distance)
    for index in range(400):
        value = centers[index % 12]
        for place in rng.choice(64, rng.integers(0, 12), replace=False):
            value ^= 1 << int(place)
        near = any((value ^ other).bit_count() <= distance for other in kept)
        assert (seen.cause(f"k{index}", None, bits(value)) == "near_duplicate") == near
        if not near:
            kept.append(value)
    assert 12 <= len(kept) < 400
    seen.close()


def test_the_perceptual_hash_knows_an_image_again(emoji):
    """Blurred and recompressed images are nearer to their originals than other emoji are."""
    hashes = [int.from_bytes(perceptual_hash(image), "big") for _, image, _ in emoji[:40]]
    for (_, image, _), own in zip(emoji, hashes, strict=False):
        blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6)))
        again = int.from_bytes(perceptual_hash(blurred), "big")
        assert (again ^ own).bit_count() <= 6
    assert len(set(hashes)) == len(hashes)
