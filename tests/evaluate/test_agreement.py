"""Tests agreement with prompts and labels against simulated images with known answers."""

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.agreement import compute_accuracy, compute_agreement


def normalize(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def make_texts(count, dim=32):
    texts = normalize(np.random.default_rng(0).standard_normal((count, dim)))
    return texts, [f"caption {i}" for i in range(count)]


def blur(texts, noise, seed=1):
    return normalize(texts + noise * np.random.default_rng(seed).standard_normal(texts.shape))


def test_perfect_images_rank_their_own_prompt_first():
    texts, captions = make_texts(300)
    figures = compute_agreement(texts, texts, captions, seed=0)
    assert figures.pop("clip_score") == pytest.approx(100)
    assert figures.pop("prompts_ranked") == 100
    assert set(figures.values()) == {1.0}


def test_clip_score_is_the_mean_cosine():
    texts, captions = make_texts(50)
    images = blur(texts, 0.2)
    expected = 100 * np.mean([image @ text for image, text in zip(images, texts, strict=True)])
    figures = compute_agreement(images, texts, captions, seed=0)
    assert figures["clip_score"] == pytest.approx(expected, rel=1e-6)


def test_images_of_anything_are_as_good_as_a_guess():
    texts, captions = make_texts(3000)
    figures = compute_agreement(blur(0 * texts, 1), texts, captions, seed=0)
    assert abs(figures["clip_score"]) < 2
    assert figures["retrieval_at_1"] == pytest.approx(0.01, abs=0.006)
    assert figures["retrieval_at_5"] == pytest.approx(0.05, abs=0.012)
    guess = np.mean(1 / np.arange(1, 101))
    assert figures["mean_reciprocal_rank"] == pytest.approx(guess, abs=0.01)


def test_all_captions_are_ranked_if_there_are_fewer_than_100():
    """Therefore the ranks are those of brute force."""
    texts, captions = make_texts(60)
    images = blur(texts, 0.3)
    cosines = images @ texts.T
    ranks = 1 + np.sum(cosines > np.diag(cosines)[:, None], axis=1)
    figures = compute_agreement(images, texts, captions, seed=0)
    assert figures["prompts_ranked"] == 60
    assert figures["retrieval_at_1"] == pytest.approx(np.mean(ranks == 1))
    assert figures["retrieval_at_5"] == pytest.approx(np.mean(ranks <= 5))
    assert figures["mean_reciprocal_rank"] == pytest.approx(np.mean(1 / ranks))
    assert 0.1 < figures["retrieval_at_1"] < 0.95


def test_figures_fall_with_noise():
    texts, captions = make_texts(200)
    steps = [
        compute_agreement(blur(texts, noise), texts, captions, 0) for noise in (0, 0.3, 0.6, 1)
    ]
    for name in ("clip_score", "retrieval_at_1", "retrieval_at_5", "mean_reciprocal_rank"):
        values = [step[name] for step in steps]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_a_tie_counts_against_the_model():
    """Each text has a twin with another caption."""
    texts, captions = make_texts(50)
    twins = np.concatenate([texts, texts])
    captions = captions + [f"{caption}!" for caption in captions]
    figures = compute_agreement(twins, twins, captions, seed=0)
    assert figures["retrieval_at_1"] == 0
    assert figures["mean_reciprocal_rank"] == 0.5


def test_repeated_captions_are_no_rivals():
    texts, captions = make_texts(30)
    repeated = np.concatenate([texts, texts, texts])
    figures = compute_agreement(repeated, repeated, captions * 3, seed=0)
    assert figures["prompts_ranked"] == 30
    assert figures["retrieval_at_1"] == 1


def test_the_seed_decides_which_captions_are_ranked():
    texts, captions = make_texts(300, dim=8)
    images = blur(texts, 0.3)
    results = [compute_agreement(images, texts, captions, seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


def test_too_few_different_captions_are_an_error():
    texts, captions = make_texts(40)
    with pytest.raises(UserError, match="at least 20 different prompts, but there are 19"):
        compute_agreement(texts, texts, captions[:19] + captions[:19] + captions[:2], seed=0)


def test_accuracy_by_label():
    labels, predicted = np.array([0, 0, 0, 0, 3, 3, 7]), np.array([0, 0, 0, 3, 3, 7, 7])
    accuracy, by_label = compute_accuracy(predicted, labels)
    assert accuracy == {"accuracy": pytest.approx(5 / 7)}
    assert by_label == {0: 0.75, 3: 0.5, 7: 1.0}
