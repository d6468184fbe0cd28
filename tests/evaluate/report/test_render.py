"""The report shows every part of an evaluation, and leaves out the parts that are missing."""

import json
import re

import pytest

from t2i_tpu.evaluate.report.render import render
from tests.assertions import assert_mentions
from tests.evaluate.report import fake


@pytest.fixture(scope="module")
def evaluation():
    return fake.make_evaluation()


def get_headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


def test_report_shows_every_part(evaluation):
    page = render(evaluation)
    report = json.loads(json.dumps(evaluation.report))
    assert page == render(fake.FakeEvaluation(report, evaluation.pictures))
    assert len(get_headings(page)) == 8
    assert page.count("data:image/png") == len(evaluation.pictures)
    # Loss by noise level; losses, gap, KID and accuracy over steps; two histograms.
    assert page.count("data:image/svg") == 7
    assert_mentions(
        page,
        [
            "Step 3,300 of 3,300",
            "300 images are too few",
            "training split: 250 with 3,180 real ones; held-out",
            "the embedded image tower saw the training images",
            "0123456789abcdef" * 4,
            "32x32, bicubic (Pillow)",
            "KID (lower is better)",
            "1f1e8-1f1ed, 1f1ea-1f1ec",
            "guess.html",
            "Likely copies (lower is better)",
            "<td>1000</td>",
        ],
    )
    kid = report["distances"]["heldout"]["kid"]["value"]
    assert f'<p class="large">KID {kid:.4f}' in page
    assert not re.search("https?:", page)


@pytest.mark.parametrize("name", sorted(fake.make_report()))
def test_any_part_may_be_missing(name):
    report = fake.make_report()
    del report[name]
    render(fake.FakeEvaluation(report, {}))


def test_empty_report_can_be_rendered():
    assert get_headings(render(fake.FakeEvaluation({}, {}))) == []


def test_without_a_heldout_split_kid_is_that_of_the_training_split():
    report = fake.make_report()
    for part in ("distances", "agreement", "two_sample"):
        report[part] = {"train": report[part]["train"]}
    page = render(fake.FakeEvaluation(report, {}))
    kid = report["distances"]["train"]["kid"]["value"]
    assert f'<p class="large">KID {kid:.4f}' in page
    assert "This is KID on the training split" in page and "Between the real" not in page


def test_classes_are_plotted():
    report = fake.make_report()
    report["agreement"]["train"]["classes"] = {
        "T-shirt": {"value": 0.9, "spread": 0.1},
        "shoe": {"value": 0.8, "spread": None},
    }
    page = render(fake.FakeEvaluation(report, {}))
    assert "drawn for each class" in page and page.count("data:image/svg") == 8


def test_picture_of_an_unknown_section_is_an_error(evaluation):
    picture = next(iter(evaluation.pictures.values()))
    with pytest.raises(ValueError, match="oops/x"):
        render(fake.FakeEvaluation({}, {"oops/x": picture}))
