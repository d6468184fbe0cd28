"""Tests that copies and duplicates are found, and that likelihoods keep their promise."""

import numpy as np
import pytest
import scipy.spatial

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate import memorisation
from t2i_tpu.evaluate.memorisation import (
    estimate_copy_likelihoods,
    find_nearest,
    find_nearest_images,
    group_duplicates,
)


def draw_images(seed, count, height=6, width=5, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def measure_nearest_slowly(queries, references):
    """Return the root mean square distances to all references, mirrored ones last."""
    both = np.concatenate([references, references[:, :, ::-1]])
    flat = [images.reshape(len(images), -1) / 255 for images in (queries, both)]
    return scipy.spatial.distance.cdist(*flat) / flat[0].shape[1] ** 0.5


@pytest.fixture(params=[10, 10_000, 2**22])
def chunk(monkeypatch, request):
    """The largest number of values in a chunk. With 10, each chunk is a row."""
    monkeypatch.setattr(memorisation, "_MOST_VALUES", request.param)


@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_images_equal_brute_force(chunk, channels):
    queries, references = (
        draw_images(seed, count, channels=channels) for seed, count in ((0, 20), (1, 33))
    )
    distances, rows = find_nearest_images(queries, references)
    expected = measure_nearest_slowly(queries, references)
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(rows, expected.argmin(axis=1) % 33)
    assert np.any(expected.argmin(axis=1) >= 33)  # some are nearest to a mirrored one


def test_nearest_features_equal_brute_force(chunk):
    rng = np.random.default_rng(0)
    queries, references = rng.standard_normal((20, 7)), rng.standard_normal((33, 7))
    queries, references = queries.astype(np.float32), references.astype(np.float32)
    distances, rows = find_nearest(queries, references)
    expected = scipy.spatial.distance.cdist(queries, references)
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(rows, expected.argmin(axis=1))


def test_nearest_of_memory_maps(tmp_path):
    queries, references = draw_images(0, 20), draw_images(1, 33)
    np.save(tmp_path / "images.npy", references)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for result, expected in zip(
        find_nearest_images(queries, mapped), find_nearest_images(queries, references), strict=True
    ):
        np.testing.assert_array_equal(result, expected)


def test_copies_are_at_distance_0_and_the_first_of_equal_references_counts():
    references = draw_images(0, 40)
    references[30] = references[7]
    queries = draw_images(1, 3)
    queries[0], queries[1] = references[7], references[12][:, ::-1]
    distances, rows = find_nearest_images(queries, references)
    assert rows[:2].tolist() == [7, 12]
    assert distances[:2].tolist() == [0, 0] and distances[2] > 0.1
    features = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32) + 1000
    distances, rows = find_nearest(features[[9, 3]], features)
    assert distances.tolist() == [0, 0] and rows.tolist() == [9, 3]


def test_black_and_white_are_at_distance_1():
    white = np.full((1, 4, 4, 3), 255, np.uint8)
    assert find_nearest_images(0 * white, white)[0].tolist() == [1]


def test_planted_copies_of_emoji_are_likely_copies(emoji):
    """A copy, a mirrored copy and an almost equal copy, among held-out images in place of drawn ones."""
    train, heldout = emoji
    # A few emoji are in both splits, up to rounding, because they face left in one and right in the other.
    heldout = heldout[find_nearest_images(heldout, train)[0] > 0.02]
    null, drawn = heldout[::2], heldout[1::2].copy()
    drawn[3], drawn[40] = train[100], train[200][:, ::-1]
    noise = np.random.default_rng(0).integers(-2, 3, train[300].shape)
    drawn[70] = np.clip(train[300].astype(int) + noise, 0, 255)
    distances, rows = find_nearest_images(drawn, train)
    assert rows[[3, 40, 70]].tolist() == [100, 200, 300]
    null_distances, _ = find_nearest_images(null, train)
    likelihoods = estimate_copy_likelihoods(distances, null_distances)
    assert likelihoods[[3, 40]].tolist() == [1, 1]
    assert likelihoods[70] > 0.95
    others = np.delete(likelihoods, [3, 40, 70])
    assert np.mean(others > 0.95) < 0.03


def measure_distances(rng, count, references):
    points = rng.standard_normal((count, references.shape[1]))
    return scipy.spatial.cKDTree(references).query(points)[0]


def test_likelihoods_are_seldom_high_without_copies():
    """In at most one of twenty evaluations without copies, an image has a likelihood of 0.95."""
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(100):
        references = rng.standard_normal((500, 3))
        drawn, heldout = (measure_distances(rng, n, references) for n in (200, 150))
        count += np.any(estimate_copy_likelihoods(drawn, heldout) >= 0.95)
    assert count <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5


def test_likelihoods_are_those_of_a_known_mixture():
    """Of the drawn images, 30% are copies. The likelihoods are a little lower than the shares.

    This is because the expected number of images that are no copies is that of 100% instead of 70%.
    """
    rng = np.random.default_rng(0)
    references = rng.standard_normal((2000, 4))
    heldout, others = (measure_distances(rng, n, references) for n in (4000, 2800))
    copies = rng.uniform(0, 0.2, 1200)
    drawn = np.concatenate([copies, others])
    likelihoods = estimate_copy_likelihoods(drawn, heldout)
    for limit in (0.1, 0.15, 0.2, 0.4):
        is_close = drawn <= limit
        share = np.mean(np.flatnonzero(is_close) < len(copies))
        row = np.flatnonzero(is_close)[np.argmax(drawn[is_close])]  # the last within the limit
        assert likelihoods[row] == pytest.approx(1 - (1 - share) / 0.7, abs=0.05)


def test_likelihoods_do_not_increase_with_the_distance():
    rng = np.random.default_rng(0)
    drawn, heldout = rng.gamma(2, size=300), rng.gamma(3, size=200)
    likelihoods = estimate_copy_likelihoods(drawn, heldout)
    ordered = likelihoods[np.argsort(drawn)]
    assert np.all(np.diff(ordered) <= 0)
    assert np.all((likelihoods >= 0) & (likelihoods <= 1))
    assert likelihoods.min() < 0.1 and likelihoods.max() > 0.5


def test_shares_follow_a_power_law_below_the_nearest_heldout_images():
    heldout = np.sort(np.random.default_rng(0).random(100_000) ** (1 / 5))  # P(d) = d**5
    distances = np.array([0, 0.1, 0.2, 0.4, 0.8])
    shares = memorisation._estimate_share_within(distances, heldout)
    np.testing.assert_allclose(shares, distances**5, rtol=0.5)
    assert np.all(np.diff(shares) > 0)


def test_a_copy_means_nothing_if_heldout_images_are_copies_too():
    """The data set has the same image in both splits."""
    heldout = np.concatenate([np.zeros(10), np.linspace(1, 2, 90)])
    assert estimate_copy_likelihoods(np.array([0.0, 1.5, 1.6, 1.7, 1.8]), heldout)[0] < 0.5


@pytest.mark.parametrize("heldout", [[1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0], [0.5, 1.0]])
def test_few_or_equal_distances_give_finite_likelihoods(heldout):
    likelihoods = estimate_copy_likelihoods(np.array([0.0, 0.7, 1.0]), np.array(heldout))
    assert np.isfinite(likelihoods).all()


def test_likelihoods_need_distances_of_both():
    with pytest.raises(UserError, match="2 drawn and 0 held-out ones"):
        estimate_copy_likelihoods(np.ones(2), np.ones(0))


def test_planted_duplicates_are_grouped(emoji):
    train, _ = emoji
    before = group_duplicates(train)
    images = train.copy()
    images[500], images[900] = images[10], images[10][:, ::-1]
    images[650] = images[20]
    groups = group_duplicates(images)
    assert [10, 500, 900] in groups and [20, 650] in groups
    assert len(groups) <= len(before) + 2
    images[500, 0, 0, 0] ^= 1  # almost equal is not equal
    assert [10, 900] in group_duplicates(images)


def test_symmetric_and_different_images_are_no_duplicates():
    images = draw_images(0, 30)
    images[3] = images[3][:, ::-1] // 2 + images[3] // 2
    assert group_duplicates(images) == []
    assert group_duplicates(images[:0]) == []
