"""Tests guidance and thresholding against hand-computed values and numpy's percentile."""

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.diffusion.guidance import combine, rescale, threshold


def threshold_in_numpy(x, percentile):
    flat = np.abs(x).reshape(len(x), -1)
    bound = np.array([max(1.0, np.percentile(row, percentile)) for row in flat])
    bound = bound.reshape(-1, *[1] * (x.ndim - 1))
    return np.clip(x, -bound, bound) / bound


def draw_images(scale, shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("float32")


def combine_rows(estimates, scales):
    """Return the combination of estimates [B, K + 1] of single pixels, as [B]."""
    estimates = tf.constant(estimates, tf.float32)[..., None, None, None]
    return np.ravel(combine(estimates, tf.constant(scales, tf.float32)))


def test_guidance_extrapolates_from_the_unconditional_estimate():
    estimates = [[1.0, 0.5], [-2.0, 1.0]]
    # 3 * 1 - 2 * 0.5 and 3 * -2 - 2 * 1
    assert combine_rows(estimates, [[3.0], [3.0]]).tolist() == [2.0, -8.0]
    assert combine_rows(estimates, [[1.0], [0.0]]).tolist() == [1.0, 1.0]


def test_several_prompts_are_combined():
    # 4 + 2 (5 - 4) + 0.5 (2 - 4)
    assert combine_rows([[5.0, 2.0, 4.0]], [[2.0, 0.5]]).tolist() == [5.0]


def test_rescaling_restores_the_contrast():
    guided, conditional = draw_images(4, (3, 8, 8, 3)), draw_images(1, (3, 8, 8, 3), seed=1)
    for strength in (0.0, 0.5, 1.0):
        result = np.asarray(rescale(tf.constant(guided), tf.constant(conditional), strength))
        for index in range(3):
            factor = strength * conditional[index].std() / guided[index].std() + 1 - strength
            np.testing.assert_allclose(result[index], guided[index] * factor, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (2, 5, 5, 1), (1, 1, 1, 1), (4, 2, 1, 1)])
@pytest.mark.parametrize("percentile", [99.5, 90.0, 50.0, 1.0])
def test_threshold_is_numpys_percentile_of_each_image(shape, percentile):
    x = draw_images(3, shape)
    np.testing.assert_allclose(
        threshold(tf.constant(x), percentile),
        threshold_in_numpy(x, percentile),
        rtol=1e-5,
        atol=1e-6,
    )


def test_threshold_divides_by_the_percentile():
    x = tf.reshape(tf.constant([0.0, -1.0, 2.0, 4.0, -8.0]), (1, 5, 1, 1))
    # The 75th percentile of 0, 1, 2, 4 and 8 is 4.
    expected = [0.0, -0.25, 0.5, 1.0, -1.0]
    np.testing.assert_allclose(np.ravel(threshold(x, 75.0)), expected, rtol=1e-6)


def test_threshold_leaves_images_within_range_alone():
    x = np.clip(draw_images(0.3, (2, 6, 6, 1)), -1, 1)
    np.testing.assert_array_equal(threshold(tf.constant(x), 99.5), x)


def test_threshold_of_an_image_does_not_depend_on_its_batch():
    """The original takes one percentile over the batch, so an extreme image changes the others."""
    calm, wild = draw_images(2, (1, 6, 6, 3)), draw_images(50, (1, 6, 6, 3), seed=1)
    both = threshold(tf.constant(np.concatenate([calm, wild])), 99.5)
    np.testing.assert_array_equal(both[:1], threshold(tf.constant(calm), 99.5))


def test_threshold_accepts_a_batch_of_unknown_size():
    x = draw_images(3, (3, 4, 4, 3))
    run = tf.function(
        lambda x: threshold(x, 99.5), input_signature=[tf.TensorSpec((None, 4, 4, 3))]
    )
    np.testing.assert_allclose(run(x), threshold_in_numpy(x, 99.5), rtol=1e-5, atol=1e-6)


def test_percentile_0_clips():
    x = tf.constant([[-3.0, -0.5, 0.5, 1.5]])
    assert np.asarray(threshold(x, 0.0)).tolist() == [[-1.0, -0.5, 0.5, 1.0]]
