"""Tests the reading of images and masks of every kind, and the one-line errors for bad ones."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from t2i_tpu.errors import UserError
from t2i_tpu.sample.images import Images
from t2i_tpu.sample.inputs import read_image, read_masked_image

RED = (200, 30, 40)


@pytest.fixture
def image(emoji_pictures):
    """A real image, uint8 [32, 32, 3], that is not symmetric."""
    return emoji_pictures[3]


def make_mask(height=32, width=32):
    """Return a mask that repaints the upper left quarter."""
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 2] = True
    return mask


def make_strokes(mask):
    """Return a picture with opaque white strokes that is transparent, but also white, elsewhere."""
    alpha = np.where(mask, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full((*mask.shape, 3), 255, np.uint8), alpha]))


def save(picture, path, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize(
    "convert",
    [
        lambda image, folder: image,
        lambda image, folder: image[None],
        lambda image, folder: Images(image[None], [{}]),
        lambda image, folder: image.astype(np.int64),
        lambda image, folder: image.tolist(),
        lambda image, folder: (image / 255).astype(np.float32),
        lambda image, folder: (image / 255).astype(np.float16),
        lambda image, folder: image.astype(np.uint16) * 257,
        lambda image, folder: np.dstack([image, np.full((32, 32, 1), 255, np.uint8)]),
        lambda image, folder: Image.fromarray(image),
        lambda image, folder: Image.fromarray(image).convert("RGBA"),
        lambda image, folder: save(Image.fromarray(image), folder / "x.png"),
        lambda image, folder: str(save(Image.fromarray(image), folder / "x.bmp")),
        lambda image, folder: save(Image.fromarray(image), folder / "x.webp", lossless=True),
        lambda image, folder: save(Image.fromarray(image), folder / "no ending", format="TIFF"),
    ],
)
def test_image_of_the_right_size_is_unchanged(image, tmp_path, caplog, convert):
    np.testing.assert_array_equal(read_image(convert(image, tmp_path), 32), image)
    assert not caplog.records


def test_gray_images_are_unchanged(image):
    gray = image[..., :1]
    for source in (gray, gray[..., 0], Image.fromarray(gray[..., 0])):
        np.testing.assert_array_equal(read_image(source, 32, channels=1), gray)
        np.testing.assert_array_equal(read_image(source, 32), np.repeat(gray, 3, axis=2))
    deep = Image.fromarray(gray[..., 0].astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(read_image(deep, 32, channels=1), gray)
    # The weights of ITU-R 601.
    expected = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(image, 32, channels=1)[..., 0] - expected).max() <= 1


def test_transparent_parts_become_white(image):
    alpha = np.where(make_mask(), 0, 255).astype(np.uint8)
    pixels = read_image(np.dstack([image, alpha]), 32)
    np.testing.assert_array_equal(pixels[make_mask()], 255)
    np.testing.assert_array_equal(pixels[~make_mask()], image[~make_mask()])
    half = read_image(np.dstack([image, np.full((32, 32), 128, np.uint8)]), 32)
    assert np.abs(half - (image.astype(float) * 128 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "turn"), [(3, 2), (6, 1), (8, 3)], ids=["upside down", "left", "right"]
)
def test_photo_is_turned_upright(image, tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = Image.fromarray(np.rot90(image, turn).copy())
    source = Image.open(save(turned, tmp_path / "x.png", exif=exif))
    for each in (source, tmp_path / "x.png"):
        np.testing.assert_array_equal(read_image(each, 32), image)
    # The user's picture is not changed.
    assert "exif" in source.info and source.getexif()[ExifTags.Base.Orientation] == orientation
    np.testing.assert_array_equal(source, turned)


def test_middle_square_is_used_with_a_warning(image, tmp_path, caplog):
    large = np.kron(image, np.ones((4, 4, 1), np.uint8))
    wide = np.pad(large, [(0, 0), (50, 50), (0, 0)], constant_values=255)
    path = save(Image.fromarray(wide), tmp_path / "photo.png")
    assert np.abs(read_image(path, 32).astype(int) - image).mean() < 8
    (record,) = caplog.records
    words = f"{path} has 228x128 pixels; its middle square is resized to 32x32"
    assert record.getMessage() == words
    caplog.clear()
    difference = read_image(large, 32).astype(int) - read_image(Image.fromarray(wide), 32)
    assert np.abs(difference).mean() < 0.5
    assert "image has 128x128 pixels; it is resized to 32x32" in caplog.messages


@pytest.mark.parametrize(
    "convert",
    [
        lambda mask, folder: mask,
        lambda mask, folder: mask[..., None],
        lambda mask, folder: mask.tolist(),
        lambda mask, folder: mask.astype(np.uint8),
        lambda mask, folder: mask.astype(np.uint8) * 255,
        lambda mask, folder: mask.astype(np.int64),
        lambda mask, folder: mask.astype(np.float32),
        lambda mask, folder: mask * 0.1 + 0.45,
        lambda mask, folder: Image.fromarray(mask),
        lambda mask, folder: Image.fromarray(mask.astype(np.uint8)),
        lambda mask, folder: Image.fromarray(mask.astype(np.uint8) * 255).convert("P"),
        lambda mask, folder: make_strokes(mask),
        lambda mask, folder: save(Image.fromarray(mask), folder / "mask.png"),
        lambda mask, folder: save(
            Image.fromarray(mask).convert("RGB"), folder / "x.jpg", quality=50
        ),
    ],
)
def test_mask_is_read(image, tmp_path, convert):
    pixels, mask = read_masked_image(image, convert(make_mask(), tmp_path), 32)
    np.testing.assert_array_equal(pixels, image)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, make_mask())


def test_transparent_parts_are_the_mask_if_there_is_none(image, tmp_path):
    alpha = np.where(make_mask(), 100, 200).astype(np.uint8)
    path = save(Image.fromarray(np.dstack([image, alpha])), tmp_path / "x.png")
    pixels, mask = read_masked_image(path, None, 32)
    np.testing.assert_array_equal(mask, make_mask())
    np.testing.assert_array_equal(pixels, read_image(path, 32))
    _, mask = read_masked_image(path, ~make_mask(), 32)
    np.testing.assert_array_equal(mask, ~make_mask())


@pytest.mark.parametrize(
    "shape", [(128, 128), (128, 200), (300, 128), (32, 64), (16, 16), (100, 77)]
)
def test_mask_is_cropped_like_the_image(shape):
    """The mask covers exactly the red part of the image."""
    covered = np.zeros(shape, bool)
    side = min(shape)
    top, left = (shape[0] - side) // 2 + side // 4, (shape[1] - side) // 2 + side // 2
    covered[top : top + side // 2, left : left + side // 4] = True
    image = np.where(covered[..., None], np.uint8(RED), np.uint8(255))
    pixels, mask = read_masked_image(image, covered, 32)
    redness = 255 - pixels[..., 1].astype(int)
    assert (redness[~mask] < 60).all()
    assert (redness[mask] > 100).mean() > 0.7
    assert 0.1 < mask.mean() < 0.2


def test_mask_fits_the_upright_photo(image, tmp_path):
    """A phone stores a tall photo as a wide one that is turned."""
    tall = np.concatenate([image, image])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = save(Image.fromarray(np.rot90(tall).copy()), tmp_path / "x.png", exif=exif)
    pixels, _ = read_masked_image(path, np.ones((64, 32), bool), 32)
    np.testing.assert_array_equal(pixels, tall[16:48])
    with pytest.raises(UserError, match=r"mask has 64x32 pixels, but .* has 32x64 pixels"):
        read_masked_image(path, np.ones((32, 64), bool), 32)


def test_thin_stroke_stays_in_the_mask():
    stroke = np.zeros((512, 512), bool)
    stroke[:, 100] = True
    _, mask = read_masked_image(np.zeros((512, 512, 3), np.uint8), stroke, 32)
    np.testing.assert_array_equal(mask.nonzero()[1], [6] * 32)


def test_photo_as_a_mask_gives_a_warning(image, caplog):
    blurred = np.tile(np.linspace(0, 1, 32), (32, 1))
    _, mask = read_masked_image(image, blurred, 32)
    np.testing.assert_array_equal(mask, blurred >= 0.5)
    assert "mask has many gray pixels for a mask" in caplog.text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "image must be a path, a PIL picture, or an array"),
        (3, "not a int"),
        (object(), "not a object"),
        ([[1, 2], [3]], "not a list"),
        (np.zeros((3, 32, 32)), "not float64 [3, 32, 32]"),
        (np.zeros((2, 32, 32, 3)), "not float64 [2, 32, 32, 3]"),
        (np.zeros((32, 32, 3), complex), "not a ndarray"),
        (np.zeros((0, 32, 3), np.uint8), "image has no pixels"),
        (np.full((8, 8, 3), 2.0), "values from 2 to 2; floats must be from 0 to 1"),
        (np.full((8, 8, 3), -0.5), "values from -0.5 to -0.5"),
        (np.full((8, 8, 3), np.nan), "values from nan to nan"),
        (np.full((8, 8, 3), 256), "values from 256 to 256"),
        ("missing.png", "cannot read missing.png: No such file or directory"),
        ("empty.png", "empty.png is empty"),
        ("text.png", "text.png is not a picture that can be read"),
        ("cut.png", "cut.png is truncated"),
        ("pointer.png", "git lfs pull"),
        (".", "Is a directory"),
        ("s3://x/y.png", "s3:// is not supported"),
        ("", "is empty"),
    ],
)
def test_bad_image_is_an_error(image, tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("red heart")
    (tmp_path / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    Image.fromarray(image).save("complete.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "complete.png").read_bytes()[:-500])
    for read in (
        lambda: read_image(source, 32),
        lambda: read_masked_image(source, make_mask(), 32),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (
            make_mask(16, 32),
            "mask has 32x16 pixels, but image has 32x32 pixels; the mask must have",
        ),
        (np.zeros((32, 32), bool), "mask is all black, so nothing would be drawn"),
        (None, "image has no transparent parts that could be repainted; give a mask as well"),
        ("mask.txt", "mask.txt is not a picture"),
        (np.full((32, 32), 2.0), "mask has values from 2 to 2"),
        (np.zeros((32, 32, 2)), "mask must be a path, a PIL picture, or an array"),
    ],
)
def test_bad_mask_is_an_error(image, tmp_path, monkeypatch, mask, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mask.txt").write_text("x")
    with pytest.raises(UserError) as caught:
        read_masked_image(image, mask, 32)
    assert words in str(caught.value) and "\n" not in str(caught.value)
