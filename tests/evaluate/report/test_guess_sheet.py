"""The sheet for guessing hides the key, and its answers are scored correctly."""

import json
import math
import re

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.evaluation import Pair
from t2i_tpu.evaluate.report.guess_sheet import make_guess_sheet, score_sheet

COUNT = 12


@pytest.fixture(scope="module")
def sheet():
    """The page and the key of pairs whose drawn images are black and real ones white."""
    black, white = (np.full((8, 8, 3), value, np.uint8) for value in (0, 255))
    pairs = [Pair(black, white, f'<prompt "{number}">') for number in range(COUNT)]
    return make_guess_sheet(pairs, seed=1)


def make_answers(key, num_right, num_wrong=0):
    """Return the content of a file with answers to the first pairs, first the right ones."""
    other = {"left": "right", "right": "left"}
    answers = [None] * COUNT
    for number in range(num_right + num_wrong):
        side = key["real"][number]
        answers[number] = side if number < num_right else other[side]
    return json.dumps({"sheet": key["sheet"], "answers": answers})


def test_key_says_where_the_real_images_are(sheet):
    page, key = sheet
    images = re.findall(r'data:image/png;base64,([^"]+)', page)
    assert len(images) == 2 * COUNT and len(set(images)) == 2
    real = images[int(key["real"][0] == "right")]
    for number, side in enumerate(key["real"]):
        left, right = images[2 * number : 2 * number + 2]
        assert (left if side == "left" else right) == real != (right if side == "left" else left)
    assert {"left", "right"} == set(key["real"])
    assert "&lt;prompt &quot;0&quot;&gt;" in page


def test_page_and_key_are_functions_of_the_seed(sheet):
    image = np.zeros((8, 8, 1), np.uint8)
    pairs = [Pair(image, image + 1)] * 40
    assert make_guess_sheet(pairs, 5) == make_guess_sheet(pairs, 5)
    keys = [make_guess_sheet(pairs, seed)[1] for seed in range(2)]
    assert keys[0]["real"] != keys[1]["real"] and keys[0]["sheet"] != keys[1]["sheet"]


@pytest.mark.parametrize(
    ("num_right", "num_wrong"), [(12, 0), (6, 6), (0, 12), (9, 3), (5, 0), (1, 2)]
)
def test_score_counts_and_tests_the_answers(sheet, num_right, num_wrong):
    key = sheet[1]
    score = score_sheet(make_answers(key, num_right, num_wrong), key)
    count = num_right + num_wrong
    assert (score.num_right, score.num_answered) == (num_right, count)
    p_value = sum(math.comb(count, k) for k in range(num_right, count + 1)) / 2**count
    assert score.p_value == pytest.approx(p_value, rel=1e-12)
    lines = score.describe()
    assert (
        lines[0].startswith(f"{num_right} of {count} ") and f"{num_right / count:.0%}" in lines[1]
    )
    assert ("no sign" in lines[2]) == (p_value >= 0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:20], "not those that guess.html saves"),
        (lambda text: "[1]", "not those that guess.html saves"),
        (lambda text: b"\xff\xfe", "not those that guess.html saves"),
        (lambda text: '{"sheet": 1, "answers": 2}', "not those that guess.html saves"),
        (lambda text: text.replace('"right"', '"middle"'), "'middle'.*left, right or null"),
        (lambda text: text.replace('"right"', "[1]"), r"\[1\].*left, right or null"),
        (lambda text: text.replace(": [", ": [null, "), "another guess.html"),
        (lambda text: re.sub('"sheet": "..', '"sheet": "zz', text), "another guess.html"),
        (lambda text: re.sub('"(left|right)"', "null", text), "all empty"),
    ],
)
def test_bad_answers_are_rejected_in_one_line(sheet, change, words):
    key = sheet[1]
    with pytest.raises(UserError, match=words) as error:
        score_sheet(change(make_answers(key, 6, 6)), key)
    assert "\n" not in str(error.value)
