"""Tests of the Python interface: the images that it draws, and its one-line error messages."""

import itertools

import numpy as np
import pytest
from PIL import Image

import t2i_tpu
from t2i_tpu.api.editing import choose_levels
from t2i_tpu.api.prompts import Drawing
from t2i_tpu.diffusion.schedules import LEVELS
from tests import tiny

PROMPTS = ["red square", "blue square", "green square"]


def assert_close(images, expected):
    """Compare images up to the rounding of a float32 before it becomes a uint8."""
    first, second = (np.asarray(part).astype(int) for part in (images, expected))
    assert first.shape == second.shape and np.abs(first - second).max() <= 1


def differ(images, expected):
    return np.abs(np.asarray(images).astype(int) - np.asarray(expected)).max() > 1


@pytest.fixture(scope="module")
def expected(models):
    return models("embedding").sample(PROMPTS, num_images=3, seed=5)


def test_images_are_grouped_by_prompt(model, expected):
    assert expected.array.shape == (9, 16, 16, 3)
    for index, (prompt, seed) in enumerate(itertools.product(PROMPTS, (5, 6, 7))):
        assert_close(model.sample(prompt, seed=seed)[0], expected[index])
        record = expected.records[index]
        assert (record["prompt"], record["seed"], record["step"]) == (prompt, seed, 8)
    assert all(
        differ(expected[first], expected[second])
        for first, second in itertools.combinations(range(9), 2)
    )


def test_images_are_drawn_again_from_their_records(model, expected):
    negative = model.sample("red square", negative_prompt="blue square", guidance_scale=4)
    composed = model.sample([("red square", 1.0), ("blue square", 0.5)], levels="uniform")
    images = expected + negative + composed
    again = model.redraw(images.records)
    assert_close(again, images)
    assert again.records == images.records
    assert differ(negative, expected[:1]) and differ(composed, expected[:1])


def test_frames_are_drawn_again_from_their_records(model):
    frames = model.interpolate("red square", "blue square", seed=[2, 7], frames=4)
    again = model.redraw(frames.records[1:])
    assert_close(again, frames[1:])
    assert again.is_animation and again.records == frames.records[1:]


def test_other_images_cannot_be_drawn_again_from_their_records(model, expected):
    noise = np.zeros((16, 16, 3))
    for images in (
        model.edit(expected[0], "red square"),
        model.sample(expected[0]),
        model.sample("red square", noise=noise),
    ):
        with pytest.raises(t2i_tpu.UserError, match="metadata alone"):
            model.redraw(images.records)
    with pytest.raises(t2i_tpu.UserError, match="load it with step=3"):
        model.redraw([expected.records[0] | {"step": 3}])


def test_any_number_of_images_is_drawn_lazily(model, expected):
    drawings = (Drawing("red square", seed) for seed in itertools.count(5))
    first = next(model.draw(drawings))
    assert len(first) == model.trained.generator.batch_size
    assert_close(first[:3], expected[:3])


def test_weights_can_be_chosen(model, workdirs, expected):
    others = [
        t2i_tpu.load(workdirs("embedding"), strategy="cpu", **choice).sample(PROMPTS, 3, 5)
        for choice in (
            {"step": 4, "average": 0.05},
            {"average": "none", "guide_step": 4, "guidance_scale": 3.0},
        )
    ]
    for images in others:
        assert differ(images, expected)
    records = [images.records[0] for images in (expected, *others)]
    assert [record["step"] for record in records] == [8, 4, 8]
    assert [record["average"] for record in records] == ["0.1", "0.05", "none"]


def test_a_trained_model_can_be_loaded(squares, tmp_path):
    """`t2i_tpu.train` trains like launch/train.py, and can be called again."""
    config = tiny.make_config(squares, train__total_steps=2, sample__steps=2)
    for _ in range(2):
        assert t2i_tpu.train(config, tmp_path / "run", strategy="cpu") == 0
    model = t2i_tpu.load(tmp_path / "run", strategy="cpu")
    assert model.step == 2 and model.sample("red square").array.shape == (1, 16, 16, 3)


def test_classes_can_be_given_by_name_or_number(models):
    model = models("label")
    assert model.class_names == ("red", "green", "blue", "yellow")
    images = model.sample(["green", 1, "1", "blue"], seed=3)
    assert_close(images[0:1], images[1:2])
    assert_close(images[1:2], images[2:3])
    assert differ(images[2], images[3])


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("embedding", "spherical"),
        ("embedding", "linear"),
        ("sequence", "spherical"),
        ("tokens", "spherical"),
        ("label", "linear"),
    ],
)
def test_interpolation_passes_through_its_key_points(models, kind, method):
    model = models(kind)
    prompts = ("red", "blue", "green") if kind == "label" else PROMPTS
    frames = model.interpolate(*prompts, frames=4, seed=[3, 9, 4], method=method)
    assert len(frames) == 7 and frames.is_animation
    for index, (prompt, seed) in enumerate(zip(prompts, (3, 9, 4), strict=True)):
        assert_close(frames[3 * index], model.sample(prompt, seed=seed)[0])
    changes = np.abs(np.diff(frames.array.astype(int), axis=0)).reshape(6, -1).mean(axis=1)
    assert changes.min() > 0
    leg = np.abs(frames[3].astype(int) - frames[0]).mean()
    assert changes[:3].max() < leg


def test_interpolation_between_seeds(model):
    frames = model.interpolate("red square", seed=[0, 1], frames=3)
    assert_close(frames[0], model.sample("red square", seed=0)[0])
    assert_close(frames[2], model.sample("red square", seed=1)[0])
    assert differ(frames[1], frames[0]) and differ(frames[1], frames[2])


def test_editing_starts_from_the_image(model, expected):
    photo = expected[4]
    edited = model.edit(photo, "red square", strength=0.5, num_images=2)
    assert differ(edited[0], edited[1]) and differ(edited[:1], expected[:1])
    # With a strength of 1, nothing of the image remains.
    assert_close(model.edit(photo, "red square", strength=1, seed=5), expected[:1])


@pytest.mark.parametrize("schedule", list(LEVELS))
def test_strength_sets_the_first_noise_level(model, schedule):
    """An edit makes as many network calls as a new image, from a level that all schedules share."""
    settings = model.resolve_settings({"levels": schedule, "steps": 10})
    for strength, level in ((1, 1), (0.5, 2 / 3), (0.2, 1 / 3)):
        levels = choose_levels(model.trained, settings, strength)
        assert len(levels) == len(choose_levels(model.trained, settings, 1))
        assert levels[0] == pytest.approx(level) and np.all(np.diff(levels) < 0)
    if schedule == "uniform":
        np.testing.assert_allclose(levels, np.linspace(1 / 3, 0, 11))


def test_variations_follow_the_embedding_of_the_image(model, expected):
    photo = expected[0]
    varied = model.vary(photo, num_images=2)
    assert_close(varied, model.edit(photo, photo, num_images=2))
    assert_close(model.sample(photo), model.sample(Image.fromarray(photo)))
    assert differ(model.sample(photo), model.sample(expected[4]))


def test_variations_without_an_image_tower_have_no_prompt(models):
    model = models("label")
    photo = model.sample("red")[0]
    unconditional = model.edit(photo, "blue", num_images=4, guidance_scale=0)
    assert_close(model.vary(photo), unconditional)


@pytest.mark.parametrize("resamplings", [1, 3])
def test_inpainting_keeps_the_other_pixels(model, resamplings):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = rng.random((16, 16)) < 0.4
    images = model.inpaint(photo, mask, "red square", resamplings, num_images=2)
    for image in images:
        np.testing.assert_array_equal(image[~mask], photo[~mask])
        assert np.mean(image[mask] != photo[mask]) > 0.9
    assert differ(images[0], images[1])
    transparent = np.dstack([photo, np.where(mask, 0, 255).astype(np.uint8)])
    same = model.inpaint(Image.fromarray(transparent), None, "red square", resamplings, 2)
    assert_close(same, images)


def test_outpainting_surrounds_the_image(model, expected):
    images = model.outpaint(expected[0], "red square", scale=0.5, resamplings=1, num_images=2)
    small = np.asarray(Image.fromarray(expected[0]).resize((8, 8), Image.Resampling.LANCZOS))
    for image in images:
        np.testing.assert_array_equal(image[4:12, 4:12], small)
    assert differ(images[0][:4], images[1][:4])


def test_inversion_finds_noise_from_which_the_image_is_drawn(model, expected):
    inversion = model.invert(expected[1], "red square")
    settings = {"guidance_scale": 1, "sampler": "unipc", "levels": "log_snr", "steps": 50}
    again = model.sample("red square", noise=inversion.noise, **settings)
    assert_close(again, inversion.images)
    difference = np.abs(again[0].astype(float) - expected[1]).mean()
    assert inversion.error == pytest.approx(difference, abs=0.1)


CASES = [
    (lambda model: model.sample(""), "prompt is empty"),
    (lambda model: model.sample([]), "no prompts"),
    (lambda model: model.sample(None), "NoneType"),
    (lambda model: model.sample("red " * 60), "tokens"),
    (lambda model: model.sample("red", num_images=0), "num_images is 0"),
    (lambda model: model.sample("red", num_images=1.5), "num_images is 1.5"),
    (lambda model: model.sample("red", seed=-1), "seed is -1"),
    (lambda model: model.sample("red", seed=2**32), "4294967295"),
    (lambda model: model.sample("red", seed=2**32 - 1, num_images=2), "4294967295"),
    (lambda model: model.sample("red", guidance_scale=-1), "guidance_scale is -1"),
    (lambda model: model.sample("red", guidance_scale=float("nan")), "guidance_scale"),
    (lambda model: model.sample("red", stepz=3), "did you mean 'steps'"),
    (lambda model: model.sample("red", sampler="eulr"), "did you mean 'euler'"),
    (lambda model: model.sample("red", guidance_interval=(0.8, 0.2)), "lower one first"),
    (lambda model: model.sample([("red", 0.0)]), "must be above 0"),
    (lambda model: model.sample([("red",)]), "a string and a weight"),
    (lambda model: model.sample("red", noise=np.zeros((3, 3, 3))), "[16, 16, 3]"),
    (lambda model: model.interpolate("red"), "two key points"),
    (lambda model: model.interpolate("red", "blue", seed=[1, 2, 3]), "3 key points"),
    (lambda model: model.interpolate("red", "blue", method="cubic"), "spherical"),
    (lambda model: model.edit("no_such_file.png", "red"), "no_such_file.png"),
    (lambda model: model.edit(np.zeros((16, 16, 3), np.uint8), "red", strength=0), "strength is 0"),
    (lambda model: model.outpaint(np.zeros((16, 16, 3), np.uint8), "red", scale=1), "scale is 1"),
    (
        lambda model: model.inpaint(np.zeros((16, 16, 3), np.uint8), np.ones((8, 8)), "red"),
        "the mask must have the image's size",
    ),
]


@pytest.mark.parametrize(("call", "words"), CASES, ids=[words for _, words in CASES])
def test_error_message_is_one_line(model, call, words):
    with pytest.raises(t2i_tpu.UserError) as error:
        call(model)
    message = str(error.value)
    assert words in message and "\n" not in message


def test_unknown_class_and_missing_run_are_user_errors(models, tmp_path):
    with pytest.raises(t2i_tpu.UserError, match="red, green, blue, yellow"):
        models("label").sample("purple")
    for choice, words in (
        ({"engine": "torch"}, "engine is 'torch'"),
        ({"strategy": "gpus"}, "did you mean 'gpu'"),
        ({"step": "8"}, "step is '8'"),
        ({"per_replica_batch_size": 0}, "per_replica_batch_size is 0"),
    ):
        with pytest.raises(t2i_tpu.UserError, match=words):
            t2i_tpu.load(tmp_path, **choice)
    with pytest.raises(t2i_tpu.UserError, match="holds no run"):
        t2i_tpu.load(tmp_path / "nothing")
