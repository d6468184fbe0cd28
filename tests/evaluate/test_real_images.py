"""Tests on real images, the embedded emoji, that figures move the right way when the images change."""

import numpy as np
import pytest
import scipy.ndimage

from t2i_tpu.evaluate.distances.find import list_distances
from t2i_tpu.evaluate.two_sample import compute_two_sample_test


def make_features(images):
    """Return the mean colors of squares of 4x4 pixels, float32 [N, 192]."""
    count = len(images)
    means = images.reshape(count, 8, 4, 8, 4, 3).mean(axis=(2, 4)) / 255
    return means.reshape(count, -1).astype(np.float32)


def compute_all(real, drawn):
    figures = compute_two_sample_test(real, drawn, seed=0)
    for distance in list_distances():
        figures |= distance.compute(real, drawn)
    return figures


@pytest.fixture(scope="module")
def halves(emoji):
    """Two disjoint random halves of the images."""
    train, _ = emoji
    return np.split(train[np.random.default_rng(0).permutation(len(train))], 2)


@pytest.fixture(scope="module")
def same(halves):
    return compute_all(*map(make_features, halves))


def test_halves_cannot_be_distinguished(emoji):
    """Both the share of KIDs within their standard errors and the p-values are those of chance."""
    features = make_features(emoji[0])
    figures = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(features))
        real, drawn = np.split(features[order], 2)
        figures.append(list_distances()[0].compute(real, drawn))
        figures[-1] |= compute_two_sample_test(real, drawn, seed)
    is_within = [abs(row["kid"]) < row["kid_standard_error"] for row in figures]
    assert np.mean(is_within) >= 0.6
    assert np.median([row["two_sample_p_value"] for row in figures]) > 0.2


def test_figures_of_halves_are_good(same):
    assert min(same["precision"], same["recall"]) > 0.7
    assert same["density"] > 0.8 and same["coverage"] > 0.85


def test_blur_worsens_all_but_precision_and_density(halves, same):
    """Blurred images are in the middle of the real ones, as the meaning of these two says."""
    blurred = scipy.ndimage.gaussian_filter(halves[1], (0, 4, 4, 0))
    figures = compute_all(make_features(halves[0]), make_features(blurred))
    assert figures["kid"] > same["kid"] + 5 * figures["kid_standard_error"]
    assert figures["fid"] > 2 * same["fid"]
    assert figures["recall"] < same["recall"] - 0.3
    assert figures["coverage"] < same["coverage"]
    assert figures["two_sample_p_value"] < 1e-6
    assert figures["precision"] > same["precision"] and figures["density"] > same["density"]


def test_inverted_colors_worsen_all_figures(halves, same):
    figures = compute_all(make_features(halves[0]), make_features(255 - halves[1]))
    assert figures["kid"] > same["kid"] + 5 * figures["kid_standard_error"]
    assert figures["fid"] > 2 * same["fid"]
    for name in ("precision", "recall", "density", "coverage"):
        assert figures[name] < same[name] - 0.2, name
    assert figures["two_sample_p_value"] < 1e-6


def test_missing_dark_images_lower_recall_and_coverage_but_not_precision(halves, same):
    real, drawn = map(make_features, halves)
    brightness = drawn.mean(axis=1)
    figures = compute_all(real, drawn[brightness > np.median(brightness)])
    assert figures["precision"] > same["precision"] - 0.05
    assert figures["recall"] < same["recall"] - 0.15
    assert figures["coverage"] < same["coverage"] - 0.15
    assert figures["kid"] > 5 * figures["kid_standard_error"]


def test_added_noise_images_lower_precision_and_density_but_not_recall(halves, same):
    real, drawn = map(make_features, halves)
    noise = np.random.default_rng(0).random((200, *drawn.shape[1:]), np.float32)
    figures = compute_all(real, np.concatenate([drawn, noise]))
    assert figures["precision"] < same["precision"] - 0.2
    assert figures["density"] < same["density"] - 0.2
    assert figures["recall"] > same["recall"] - 0.05
    assert figures["coverage"] > same["coverage"] - 0.05
