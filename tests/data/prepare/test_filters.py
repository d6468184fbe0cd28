"""Tests each filter alone: which examples pass, and the causes for which others are rejected."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

from t2i_tpu.data.prepare import filters
from t2i_tpu.data.prepare.duplicates import DuplicateIndex
from t2i_tpu.data.prepare.filters import Filters, script_share
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.prepare.unit import compute_perceptual_hash

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
        ("script", "cjk", (64, 64), "小さい赤い犬", {}, "other_script"),  # half is hiragana
        ("min_similarity", 0.3, (64, 64), CAPTION, {"similarity": 0.29}, "low_similarity"),
        ("min_similarity", 0.3, (64, 64), CAPTION, {"SIMILARITY": 0.3}, None),
        ("min_similarity", 0.3, (64, 64), CAPTION, {}, "no_similarity"),
        ("min_similarity", 0.3, (64, 64), CAPTION, {"similarity": float("nan")}, "low_similarity"),
        ("min_aesthetic", 6, (64, 64), CAPTION, {"AESTHETIC_SCORE": "5.9"}, "low_aesthetic_score"),
        ("min_aesthetic", 6, (64, 64), CAPTION, {"aesthetic": 6.5}, None),
    ],
)  # fmt: skip
def test_check_before_decoding(name, value, size, caption, columns, cause):
    # Without filters, every example passes.
    filters.check_before_decoding(Filters(), size, caption, columns)
    chosen = dataclasses.replace(Filters(), **{name: value})
    if cause is None:
        filters.check_before_decoding(chosen, size, caption, columns)
    else:
        with pytest.raises(Rejected, match=f"^{cause}$"):
            filters.check_before_decoding(chosen, size, caption, columns)


def test_mostly_white_images_are_rejected():
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[:2] = 10
    filters.check_pixels(Filters(max_white=0.75), pixels)
    with pytest.raises(Rejected, match="too_white"):
        filters.check_pixels(Filters(max_white=0.74), pixels)


def test_script_share():
    assert script_share("abc где", "latin") == 0.5
    assert script_share("12 + 3", "latin") == 1


def to_bytes(value):
    return value.to_bytes(8, "big")


def test_duplicate_images_are_found_by_content_then_hash():
    index = DuplicateIndex(distance=2)
    assert index.add_image(b"1", to_bytes(0)) is None
    assert index.add_image(b"1", to_bytes(2**40)) == "duplicate_image"
    assert index.add_image(b"3", to_bytes(0b11 << 62)) == "near_duplicate"
    assert index.add_image(None, None) is None
    index.close()


def test_repeated_keys_are_numbered_unless_the_example_is_the_same():
    index = DuplicateIndex(None)
    claims = [
        ("a", b"1", "a"),
        ("a", b"1", None),
        ("a", b"2", "a~2"),
        ("a~3", b"1", "a~3"),  # a key of the input that looks like a numbered one
        ("a", b"3", "a~4"),
        ("a", b"2", None),
        ("a~2", b"2", "a~2~2"),  # not the example with that number
        ("a~2", b"2", None),
        ("b", b"1", "b"),
    ]
    for key, digest, expected in claims:
        assert index.claim_key(key, digest) == expected, (key, digest)
    index.close()


def test_a_key_that_repeats_often_is_numbered_quickly():
    index = DuplicateIndex(None)
    keys = [index.claim_key("x", f"{number}".encode()) for number in range(20_000)]
    assert keys == ["x", *(f"x~{number}" for number in range(2, 20_001))]
    assert not any(index.claim_key("x", f"{number}".encode()) for number in range(20_000))
    index.close()


@pytest.mark.parametrize("distance", [0, 1, 3, 7])
def test_near_duplicates_match_an_exhaustive_search(distance):
    """The values are 12 centers with up to 11 flipped bits, so some are near others and some are not."""
    rng = np.random.default_rng(distance)
    centers = [int(value) for value in rng.integers(0, 2**63, 12, dtype=np.uint64) * 2 + 1]
    kept, index = [], DuplicateIndex(distance)
    for number in range(400):
        value = centers[number % 12]
        for place in rng.choice(64, rng.integers(0, 12), replace=False):
            value ^= 1 << int(place)
        is_near = any((value ^ other).bit_count() <= distance for other in kept)
        cause = index.add_image(None, to_bytes(value))
        assert cause == ("near_duplicate" if is_near else None)
        if not is_near:
            kept.append(value)
    assert 12 <= len(kept) < 400
    index.close()


def test_perceptual_hash_barely_changes_when_an_image_is_blurred(emoji):
    """It also tests that different emoji have different hashes."""
    hashes = [int.from_bytes(compute_perceptual_hash(image), "big") for _, image, _ in emoji[:40]]
    for (_, image, _), own in zip(emoji, hashes, strict=False):
        blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6)))
        blurred_hash = int.from_bytes(compute_perceptual_hash(blurred), "big")
        assert (blurred_hash ^ own).bit_count() <= 6
    assert len(set(hashes)) == len(hashes)
