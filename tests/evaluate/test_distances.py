"""Tests the distances against other programs, and that they move the right way."""

import json

import numpy as np
import pytest
import scipy.linalg
from prdc import compute_prdc

from t2i_tpu.evaluate import neighborhoods
from t2i_tpu.evaluate.distances import fid
from t2i_tpu.evaluate.distances.density_coverage import compute_density_coverage
from t2i_tpu.evaluate.distances.find import list_distances
from t2i_tpu.evaluate.distances.precision_recall import compute_precision_recall
from tests.evaluate import make_reference

PAIRS = make_reference.make_features()
by_pair = pytest.mark.parametrize("pair", PAIRS)


def compute_all(real, drawn):
    return {k: v for distance in list_distances() for k, v in distance.compute(real, drawn).items()}


def draw(seed, count, dim=8):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def draw_modes(seed, modes, count=600, dim=8):
    """Return points around random ones of the first of ten centers, which are far apart."""
    centers = 6 * draw(99, 10, dim)
    chosen = np.random.default_rng((seed, 1)).integers(modes, size=count)
    return centers[chosen] + draw(seed, count, dim)


@by_pair
def test_figures_equal_those_of_torch_fidelity(pair):
    reference = json.loads(make_reference.PATH.read_text("utf-8"))[pair]
    figures = compute_all(*PAIRS[pair])
    assert {name: figures[name] for name in reference} == pytest.approx(reference, rel=1e-3)


@pytest.mark.clip
def test_the_stored_figures_are_those_of_the_installed_torch_fidelity():
    stored = json.loads(make_reference.PATH.read_text("utf-8"))
    computed = make_reference.compute_reference()
    assert computed.keys() == stored.keys()
    for pair, figures in computed.items():
        assert figures == pytest.approx(stored[pair], rel=1e-4)


@by_pair
def test_density_and_coverage_equal_the_authors_code(pair):
    real, drawn = PAIRS[pair]
    reference = compute_prdc(real, drawn, nearest_k=5)
    figures = compute_density_coverage(real, drawn)
    assert figures == {name: pytest.approx(reference[name], rel=1e-12) for name in figures}


@pytest.mark.parametrize("pair", sorted(PAIRS.keys() - {"duplicates"}))
def test_precision_and_recall_equal_the_authors_code(pair):
    """The authors of density leave out the edge of a ball, which matters only for duplicates."""
    real, drawn = PAIRS[pair]
    reference = compute_prdc(real, drawn, nearest_k=3)
    figures = compute_precision_recall(real, drawn)
    assert figures == {name: pytest.approx(reference[name], rel=1e-12) for name in figures}


def test_chunks_do_not_change_the_figures(monkeypatch):
    real, drawn = draw(0, 700), draw(1, 500) * 1.2
    expected = compute_all(real, drawn)
    monkeypatch.setattr(neighborhoods, "_MEBIBYTES", 0.05)
    monkeypatch.setattr(fid, "_CHUNK", 64)
    assert len(list(neighborhoods.iterate_distances(real, drawn))) > 30
    assert compute_all(real, drawn) == pytest.approx(expected, rel=1e-9)


def test_fid_of_gaussians_with_commuting_covariances_has_a_closed_form():
    rng = np.random.default_rng(0)
    axes = scipy.linalg.qr(rng.standard_normal((12, 12)))[0]
    scales, others = rng.uniform(0.1, 3, (2, 12))
    mean, other_mean = rng.standard_normal((2, 12))
    covariances = [(axes * scale**2) @ axes.T for scale in (scales, others)]
    expected = np.sum((mean - other_mean) ** 2) + np.sum((scales - others) ** 2)
    distance = fid.compute_frechet_distance(mean, covariances[0], other_mean, covariances[1])
    assert distance == pytest.approx(expected, rel=1e-9)


def test_fid_is_close_to_the_closed_form_for_many_images():
    expected = 8 * 0.5**2 + 8 * (1.5 - 1) ** 2
    figures = fid.compute_fid(draw(0, 200_000), 1.5 * draw(1, 200_000) + np.float32(0.5))
    assert figures["fid"] == pytest.approx(expected, rel=0.01)


def test_fid_is_real_for_a_covariance_that_is_almost_singular():
    """SciPy's root of the product has an imaginary part here."""
    points = draw(0, 600, 4) @ draw(1, 4, 64) + 1e-7 * draw(2, 600, 64)
    others = draw(3, 600, 64)
    covariances = [fid.compute_moments(features)[1] for features in (points, others)]
    product = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    distance = fid.compute_fid(points, others)["fid"]
    mean_distance = np.sum((points.mean(0) - others.mean(0)) ** 2)
    expected = mean_distance + sum(map(np.trace, covariances)) - 2 * np.trace(product).real
    assert distance == pytest.approx(expected, rel=1e-3)
    assert fid.compute_fid(points, points)["fid"] == pytest.approx(0, abs=1e-4)


def test_a_large_mean_does_not_spoil_the_covariance():
    points = draw(0, 5000) + np.float32(1000)
    expected = np.cov(points.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(fid.compute_moments(points)[1], expected, atol=1e-12)


@pytest.fixture(scope="module")
def same():
    """The figures of two sets with the same five modes."""
    return compute_all(draw_modes(0, 5), draw_modes(1, 5))


def test_equal_distributions_have_good_figures(same):
    assert abs(same["kid"]) < 2 * same["kid_standard_error"]
    assert min(same["precision"], same["recall"], same["density"]) > 0.8
    assert same["coverage"] > 0.9


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision(same):
    dropped = compute_all(draw_modes(0, 5), draw_modes(1, 3))
    assert dropped["precision"] > same["precision"] - 0.05
    assert dropped["recall"] < same["recall"] - 0.3
    assert dropped["coverage"] < same["coverage"] - 0.3
    assert dropped["kid"] > 5 * dropped["kid_standard_error"]
    assert dropped["fid"] > 3 * same["fid"]


def test_an_added_mode_lowers_precision_and_density_but_not_recall(same):
    added = compute_all(draw_modes(0, 5), draw_modes(1, 8))
    assert added["recall"] > same["recall"] - 0.05
    assert added["precision"] < same["precision"] - 0.3
    assert added["density"] < same["density"] - 0.3
    assert added["kid"] > 5 * added["kid_standard_error"]
    assert added["fid"] > 3 * same["fid"]


def test_every_figure_gets_worse_with_the_shift():
    real, drawn = draw(0, 500), draw(1, 500)
    steps = [compute_all(real, drawn + np.float32(shift)) for shift in (0, 0.5, 1, 2)]
    for distance in list_distances():
        for figure in distance.figures:
            values = [step[figure.name] for step in steps]
            if figure.better == "lower":
                assert values == sorted(values), figure.name
            elif figure.better == "higher":
                assert values == sorted(values, reverse=True), figure.name
            if figure.better:
                assert len(set(values)) == 4, figure.name
