"""Tests that pictures contain the given pixels, and that a preview is a grid of fixed seeds."""

import time

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.config import PreviewConfig
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.sample import picture_files, pictures, text
from t2i_tpu.sample.generator import Generator
from t2i_tpu.sample.preview import Preview
from tests import tiny


def enlarge_in_numpy(image, scale):
    return np.kron(image, np.ones((scale, scale, 1), np.uint8))


def contains(picture, part):
    """Return whether a picture contains an array, pixel by pixel."""
    page = np.asarray(picture)
    height, width, _ = part.shape
    rows, columns = np.nonzero(np.all(page == part[0, 0], axis=-1))
    return any(
        np.array_equal(page[y : y + height, x : x + width], part)
        for y, x in zip(rows, columns, strict=True)
    )


def test_enlarge_repeats_pixels_up_to_64():
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pictures.enlarge(image), enlarge_in_numpy(image, 3))
    np.testing.assert_array_equal(pictures.enlarge(image, 2), enlarge_in_numpy(image, 2))
    large = np.zeros((128, 128, 3), np.uint8)
    assert pictures.enlarge(large).size == (128, 128)
    grey = image[..., :1]
    np.testing.assert_array_equal(pictures.to_picture(grey), np.repeat(grey, 3, axis=-1))


def test_a_strip_runs_from_left_to_right():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    strip = np.asarray(pictures.draw_strip(images))
    assert strip.shape == (64, 192, 3)
    np.testing.assert_array_equal(strip[:, 64:128], enlarge_in_numpy(images[1], 2))


def test_a_grid_contains_every_image_in_its_section():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    long = "a caption that is far too long for its cell and is therefore cut"
    first, second = images[:3], images[3:]

    def draw(caption, title="second", other="short"):
        sections = [("first", [(image, caption) for image in first])]
        return pictures.draw_grid(
            [*sections, (title, [(image, other) for image in second])], columns=2
        )

    grid = draw(long)
    rows = [
        next(y for y in range(grid.height) if contains(grid.crop((0, y, grid.width, y + 64)), big))
        for big in (enlarge_in_numpy(image, 2) for image in images)
    ]
    assert rows[0] == rows[1] < rows[2] < rows[3] == rows[4]
    # The part of a caption that is cut off does not matter.
    np.testing.assert_array_equal(grid, draw(long + "!"))
    assert np.any(np.asarray(draw(long, other="other")) != np.asarray(grid))
    # A title is never cut, even over a few images.
    titled = draw(long, long * 3)
    assert titled.height > grid.height and titled.width == grid.width
    changed = draw(long, long * 3 + "!")
    assert changed.size == titled.size and np.any(np.asarray(changed) != np.asarray(titled))


@pytest.mark.parametrize(
    "title", ["", "one", "a caption of some length " * 5, "x" * 99, "ein 赤" * 40]
)
def test_wrapped_lines_fit_and_keep_all_text(title):
    lines = pictures._wrap(title, 90)
    assert all(text.measure(line) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert len(lines) <= 2 * text.measure(title) / 90 + 1


def test_long_words_are_wrapped_quickly():
    """Chinese, for example, has no spaces. A search that is quadratic takes minutes."""
    title, start = "赤いハート" * 1000, time.perf_counter()
    lines = pictures._wrap(title, 300)
    assert "".join(lines) == title and all(text.measure(line) <= 300 for line in lines)
    assert all(text.measure(line + title[0]) > 300 for line in lines[:-1])
    assert time.perf_counter() - start < 10


def test_saving_creates_folders_and_no_other_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    path = tmp_path / "a" / "b" / "x.png"
    picture_files.save_picture(pictures.to_picture(images[0]), str(path))
    np.testing.assert_array_equal(Image.open(path), images[0])
    picture_files.save_picture(pictures.to_picture(images[1]), str(path))  # over the old one
    np.testing.assert_array_equal(Image.open(path), images[1])
    assert {entry.name for entry in path.parent.iterdir()} == {"x.png"}


@pytest.fixture(scope="module")
def drawing(squares):
    """An untrained model whose last layer is not zero, its data set and its generator."""
    config = tiny.make_config(squares)
    dataset = open_dataset(str(squares), "embedding", 16)
    engine = tiny.make_engine(["CPU:0", "CPU:1"])
    spec = get_conditioning("embedding").make_spec(dataset.manifest)
    with engine.scope():
        denoiser = build_denoiser(config, dataset.manifest.channels, spec, "float32")
    for index, weight in enumerate(denoiser.trainable_variables):
        noise = np.random.default_rng(index).normal(size=weight.shape)
        weight.assign(weight + 0.1 * noise)
    weights = {weight.path: weight for weight in denoiser.variables}
    generator = Generator(engine, denoiser, weights, config.sample, False, per_replica_batch_size=2)
    return dataset, generator


def test_noise_is_a_function_of_its_seed(drawing):
    _, generator = drawing
    noise = generator.initial_noise(np.array([3, 9, 2**31]))
    np.testing.assert_array_equal(generator.initial_noise(np.array([9]))[0], noise[1])
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2


def test_a_preview_never_changes(drawing):
    """The configured captions come first.

    The seed of each image is its index, and the real image is to its right.
    """
    dataset, generator = drawing
    captions = ("green square train 5", "red square train 0")
    preview = Preview(PreviewConfig(captions, num_train=3, num_heldout=2), dataset)
    names = [[example["key"] for example in section] for section in preview.sections.values()]
    assert names == [["train5", "train0", "train1"], ["heldout0", "heldout1"]]
    grid = preview.draw(generator)
    np.testing.assert_array_equal(grid, preview.draw(generator))
    examples = [example for section in preview.sections.values() for example in section]
    embeddings = np.stack([example["condition"]["embedding"] for example in examples])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    images = generator.draw({"embedding": embeddings}, np.arange(len(examples)))
    for image, example in zip(images, examples, strict=True):
        pair = np.concatenate([image, example["image"]], axis=1)
        assert contains(grid, enlarge_in_numpy(pair, 4))
    without = Preview(PreviewConfig((), num_train=2, num_heldout=0), dataset)
    assert len(without.sections) == 1 and without.draw(generator).height < grid.height
