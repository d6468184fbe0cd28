"""Tests that unusable images and features are reported."""

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate import checks

FEATURES = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


@pytest.fixture(params=[7, 1024])
def chunk(monkeypatch, request):
    monkeypatch.setattr(checks, "_CHUNK", request.param)


def test_good_images_and_features_pass(chunk):
    checks.check_images(IMAGES, "drawn images")
    checks.check_images(np.where(np.arange(5)[:, None, None, None] == 2, IMAGES, 7), "drawn images")
    checks.check_features(FEATURES, "drawn images")
    checks.check_features(FEATURES[:1], "drawn images")


@pytest.mark.parametrize("value, name", [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_features_that_are_not_finite_are_an_error(chunk, value, name):
    features = FEATURES.copy()
    features[[20, 33], 5] = value
    with pytest.raises(UserError, match=f"image 20 of the drawn images contain {name};"):
        checks.check_features(features, "drawn images")


def test_equal_features_are_an_error(chunk):
    features = np.repeat(FEATURES[:1], 50, axis=0)
    with pytest.raises(UserError, match="all 50 real images have the same features"):
        checks.check_features(features, "real images")
    features[-1, -1] += 1
    checks.check_features(features, "real images")


def test_images_of_one_color_are_an_error():
    images = IMAGES.copy()
    images[:] = images[:, :1, :1]  # another color for each image
    with pytest.raises(UserError, match="each of the 5 drawn images has only one color"):
        checks.check_images(images, "drawn images")


@pytest.mark.parametrize("check", [checks.check_images, checks.check_features])
def test_no_images_are_an_error(check):
    with pytest.raises(UserError, match="there are no drawn images"):
        check(IMAGES[:0], "drawn images")
