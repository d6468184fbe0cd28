"""Every kind of image against what it shows: colours known from how the file was made."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from t2i_tpu.data.prepare.images import decode, square
from t2i_tpu.data.prepare.rejected import Lost

RED, BLUE = (200, 30, 40), (20, 60, 210)


def halves(width=64, height=64, mode="RGB", left=RED, right=BLUE):
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image.convert(mode)


def saved(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def shown(content, size=8, crop="center", channels=3):
    return square(decode(content), size, crop, channels)


def assert_halves(pixels, tolerance=0, left=RED, right=BLUE):
    tolerance += 3  # Lanczos rings beside an edge
    middle = pixels[pixels.shape[0] // 2].astype(int)
    assert np.abs(middle[1] - left).max() <= tolerance, middle[1]
    assert np.abs(middle[-2] - right).max() <= tolerance, middle[-2]


def test_an_image_of_the_right_size_is_untouched(emoji):
    for _, image, _ in emoji[:50]:
        np.testing.assert_array_equal(shown(saved(Image.fromarray(image)), 64), image)
        np.testing.assert_array_equal(shown(image, 64), image)


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [("RGB", "PNG", 0), ("P", "PNG", 30), ("P", "GIF", 30), ("RGB", "BMP", 0), ("RGB", "WEBP", 8),
     ("RGB", "TIFF", 0), ("RGBA", "PNG", 0), ("RGB", "PPM", 0), ("YCbCr", "JPEG", 8),
     ("CMYK", "TIFF", 0), ("CMYK", "JPEG", 8), ("LAB", "TIFF", 3)],
)  # fmt: skip
def test_modes_and_formats(mode, kind, tolerance):
    image = halves()
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        image = image.convert(mode)
    assert_halves(shown(saved(image, kind)), tolerance)


def test_grey_one_bit_and_sixteen_bits():
    for mode in ("L", "1", "LA"):
        pixels = shown(saved(halves(left=(0, 0, 0), right=(255, 255, 255), mode=mode)))
        assert_halves(pixels, 0, (0, 0, 0), (255, 255, 255))
    values = np.full((16, 16), 0x8040, np.uint16)
    values[:, 8:] = 0xFFFF
    for kind in ("PNG", "TIFF"):
        pixels = shown(saved(Image.fromarray(values), kind))
        assert_halves(pixels, 0, (128,) * 3, (255,) * 3)
    floats = np.tile(np.array([0.0, 0.0, 0.5, 0.5], np.float32), (4, 1))
    assert_halves(shown(saved(Image.fromarray(floats), "TIFF"), 4), 0, (0,) * 3, (128,) * 3)
    assert shown(saved(halves()), channels=1).shape == (8, 8, 1)


def test_rgb_of_sixteen_bits():
    """Written by the PNG specification: Pillow does not write it."""
    row = b"\x00" + (struct.pack(">3H", 0xC8C8, 0x1E1E, 0x2828) * 4)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(shown(content, 4), np.full((4, 4, 3), RED))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """Stored so that a viewer that obeys the tag shows red on the left."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = halves(96, 64)
    image = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_halves(shown(saved(image, "JPEG", exif=exif, quality=95)), 8)


def test_a_profile_is_obeyed_and_a_broken_one_ignored():
    """The same numbers in ProPhoto-like primaries are other colours than in sRGB: a profile whose
    red and blue are swapped shows it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    swapped = shown(saved(halves(), icc_profile=bytes(profile)))
    assert_halves(swapped, 6, RED[::-1], BLUE[::-1])
    translucent = halves().convert("RGBA")
    assert_halves(shown(saved(translucent, icc_profile=bytes(profile))), 6, RED[::-1], BLUE[::-1])
    assert_halves(shown(saved(halves(), icc_profile=b"not a profile")))


def test_first_frame_and_white_behind_alpha():
    frames = [halves(), Image.new("RGB", (64, 64), (0, 255, 0))]
    for kind in ("GIF", "PNG", "WEBP"):
        animated = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert_halves(shown(animated), 8)
    clear = halves().convert("RGBA")
    clear.putalpha(Image.new("L", (64, 64), 128))
    half_red = [round((128 * value + 127 * 255) / 255) for value in RED]
    np.testing.assert_allclose(shown(saved(clear))[4, 1], half_red, atol=1)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED, *BLUE])
    np.testing.assert_array_equal(shown(saved(palette, transparency=0)), np.full((8, 8, 3), 255))


def test_crop_and_padding():
    wide = Image.new("RGB", (128, 64), (0, 0, 0))
    wide.paste(RED, (32, 0, 96, 64))
    np.testing.assert_allclose(shown(saved(wide))[:, 2:-2], np.full((8, 4, 3), RED), atol=3)
    whole = shown(saved(wide), 16, crop="none")
    assert (whole[0] == 255).all() and (whole[-1] == 255).all()
    np.testing.assert_allclose(whole[8, 8], RED, atol=3)
    np.testing.assert_allclose(whole[8, 1], (0, 0, 0), atol=3)


def test_the_resize_is_antialiased():
    """A fine chessboard becomes grey, not one of its colours."""
    board = np.indices((256, 256)).sum(0) % 2 * 255
    for content in (saved(Image.fromarray(board.astype(np.uint8))),
                    saved(Image.fromarray(board.astype(np.uint8)), "JPEG", quality=95)):  # fmt: skip
        pixels = shown(content, 16)
        assert np.abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 3


def damaged(content, places):
    content = bytearray(content)
    for place in places:
        content[place] ^= 0x55
    return bytes(content)


def bomb():
    """A PNG that says it has 40,000 x 40,000 pixels."""
    content = bytearray(saved(Image.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


JPEG = saved(halves(300, 300), "JPEG")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (JPEG[: len(JPEG) * 2 // 3], "truncated_image"),
        (saved(halves(300, 300))[:-300], "truncated_image"),
        (bomb(), "decompression_bomb"),
        (np.zeros((4, 4, 3), np.float32), "not_an_image"),
        (np.zeros((4, 4, 2), np.uint8), "not_an_image"),
    ],
)
def test_what_is_no_image(content, cause):
    with pytest.raises(Lost) as lost:
        shown(content)
    assert lost.value.cause == cause


def test_damaged_files_are_lost_or_shown_but_never_raise_anything_else():
    rng = np.random.default_rng(0)
    contents = [saved(halves(), kind) for kind in ("PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG")]
    for content in contents:
        for _ in range(60):
            try:
                pixels = shown(damaged(content, rng.integers(0, len(content), 4)))
            except Lost:
                continue
            assert pixels.shape == (8, 8, 3)
