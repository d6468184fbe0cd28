"""Tests that images of every kind are decoded to the colors with which the file was made."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from t2i_tpu.data.prepare.images import make_square, open_image
from t2i_tpu.data.prepare.rejected import Rejected

RED, BLUE = (200, 30, 40), (20, 60, 210)


def make_halves(width=64, height=64, mode="RGB", left=RED, right=BLUE):
    """Return an image whose left and right halves have one color each."""
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image.convert(mode)


def encode(image, kind="PNG", **options):
    """Return an image as the bytes of a file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def decode(content, size=8, crop="center", channels=3):
    """Return the pixels that a preparation stores for a file's bytes or for pixels."""
    return make_square(open_image(content), size, crop, channels)


def assert_halves(pixels, tolerance=0, left=RED, right=BLUE):
    tolerance += 3  # Lanczos rings next to an edge
    middle = pixels[pixels.shape[0] // 2].astype(int)
    assert np.abs(middle[1] - left).max() <= tolerance, middle[1]
    assert np.abs(middle[-2] - right).max() <= tolerance, middle[-2]


def test_image_of_the_right_size_is_unchanged(emoji):
    for _, image, _ in emoji[:50]:
        np.testing.assert_array_equal(decode(encode(Image.fromarray(image)), 64), image)
        np.testing.assert_array_equal(decode(image, 64), image)


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [("RGB", "PNG", 0), ("P", "PNG", 30), ("P", "GIF", 30), ("RGB", "BMP", 0), ("RGB", "WEBP", 8),
     ("RGB", "TIFF", 0), ("RGBA", "PNG", 0), ("RGB", "PPM", 0), ("YCbCr", "JPEG", 8),
     ("CMYK", "TIFF", 0), ("CMYK", "JPEG", 8), ("LAB", "TIFF", 3)],
)  # fmt: skip
def test_every_mode_and_format_is_decoded(mode, kind, tolerance):
    image = make_halves()
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        image = image.convert(mode)
    assert_halves(decode(encode(image, kind)), tolerance)


def test_gray_one_bit_and_sixteen_bit_images_are_decoded():
    for mode in ("L", "1", "LA"):
        pixels = decode(encode(make_halves(left=(0, 0, 0), right=(255, 255, 255), mode=mode)))
        assert_halves(pixels, 0, (0, 0, 0), (255, 255, 255))
    values = np.full((16, 16), 0x8040, np.uint16)
    values[:, 8:] = 0xFFFF
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(Image.fromarray(values), kind))
        assert_halves(pixels, 0, (128,) * 3, (255,) * 3)
    floats = np.tile(np.array([0.0, 0.0, 0.5, 0.5], np.float32), (4, 1))
    assert_halves(decode(encode(Image.fromarray(floats), "TIFF"), 4), 0, (0,) * 3, (128,) * 3)
    assert decode(encode(make_halves()), channels=1).shape == (8, 8, 1)


def test_sixteen_bit_rgb_is_decoded():
    """The file is made by hand from the PNG specification, because Pillow cannot write it."""
    row = b"\x00" + (struct.pack(">3H", 0xC8C8, 0x1E1E, 0x2828) * 4)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(content, 4), np.full((4, 4, 3), RED))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """The pixels are stored so that applying the tag puts red on the left."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = make_halves(96, 64)
    image = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_halves(decode(encode(image, "JPEG", exif=exif, quality=95)), 8)


def test_color_profile_is_applied_and_a_broken_one_is_ignored():
    """The profile is sRGB with red and blue swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    swapped = decode(encode(make_halves(), icc_profile=bytes(profile)))
    assert_halves(swapped, 6, RED[::-1], BLUE[::-1])
    translucent = make_halves().convert("RGBA")
    assert_halves(decode(encode(translucent, icc_profile=bytes(profile))), 6, RED[::-1], BLUE[::-1])
    assert_halves(decode(encode(make_halves(), icc_profile=b"not a profile")))


def test_first_frame_is_kept_and_alpha_is_put_on_white():
    frames = [make_halves(), Image.new("RGB", (64, 64), (0, 255, 0))]
    for kind in ("GIF", "PNG", "WEBP"):
        animated = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert_halves(decode(animated), 8)
    clear = make_halves().convert("RGBA")
    clear.putalpha(Image.new("L", (64, 64), 128))
    half_red = [round((128 * value + 127 * 255) / 255) for value in RED]
    np.testing.assert_allclose(decode(encode(clear))[4, 1], half_red, atol=1)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED, *BLUE])
    np.testing.assert_array_equal(decode(encode(palette, transparency=0)), np.full((8, 8, 3), 255))


def test_image_is_cropped_or_padded():
    wide = Image.new("RGB", (128, 64), (0, 0, 0))
    wide.paste(RED, (32, 0, 96, 64))
    np.testing.assert_allclose(decode(encode(wide))[:, 2:-2], np.full((8, 4, 3), RED), atol=3)
    padded = decode(encode(wide), 16, crop="none")
    assert (padded[0] == 255).all() and (padded[-1] == 255).all()
    np.testing.assert_allclose(padded[8, 8], RED, atol=3)
    np.testing.assert_allclose(padded[8, 1], (0, 0, 0), atol=3)


def test_resize_is_antialiased():
    """A fine checkerboard becomes gray, not one of its colors."""
    board = np.indices((256, 256)).sum(0) % 2 * 255
    for content in (encode(Image.fromarray(board.astype(np.uint8))),
                    encode(Image.fromarray(board.astype(np.uint8)), "JPEG", quality=95)):  # fmt: skip
        pixels = decode(content, 16)
        assert np.abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 3


def flip_bits(content, positions):
    """Return the content with some bits flipped in the bytes at the given positions."""
    content = bytearray(content)
    for position in positions:
        content[position] ^= 0x55
    return bytes(content)


def make_bomb():
    """Return a small PNG file whose header promises 40,000 x 40,000 pixels."""
    content = bytearray(encode(Image.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


JPEG = encode(make_halves(300, 300), "JPEG")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (JPEG[: len(JPEG) * 2 // 3], "truncated_image"),
        (encode(make_halves(300, 300))[:-300], "truncated_image"),
        (make_bomb(), "decompression_bomb"),
        (np.zeros((4, 4, 3), np.float32), "not_an_image"),
        (np.zeros((4, 4, 2), np.uint8), "not_an_image"),
    ],
)
def test_bad_images_are_rejected_with_their_cause(content, cause):
    with pytest.raises(Rejected) as error:
        decode(content)
    assert error.value.cause == cause


def test_damaged_files_are_decoded_or_rejected():
    """No exception other than Rejected is raised, and both outcomes occur."""
    rng = np.random.default_rng(0)
    contents = [
        encode(make_halves(), kind) for kind in ("PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG")
    ]
    num_decoded = num_rejected = 0
    for content in contents:
        for _ in range(60):
            try:
                pixels = decode(flip_bits(content, rng.integers(0, len(content), 4)))
            except Rejected as error:
                assert re.fullmatch("[a-z_]+", error.cause)
                num_rejected += 1
            else:
                assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
                num_decoded += 1
    assert num_decoded > 50 and num_rejected > 50


def make_chunk(name, data):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def insert(png, chunk, before):
    """Return a PNG file with one more chunk, before the first one of the given name."""
    start = png.index(before) - 4
    return png[:start] + chunk + png[start:]


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("start", [b"zTXtworkflow\0\0", b"iTXtworkflow\0\1\0\0\0"])
def test_large_texts_of_a_png_file_do_not_matter(start, before):
    """The text takes 100 MB, or 100 KB compressed."""
    chunk = make_chunk(start[:4], start[4:] + zlib.compress(bytes(100 << 20)))
    assert_halves(decode(insert(encode(make_halves()), chunk, before)))


def test_rotation_in_the_texts_of_a_png_file_is_kept():
    text = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'
    content = insert(encode(make_halves()), make_chunk(b"iTXt", text), b"IDAT")
    assert_halves(decode(content), 0, BLUE, RED)


def test_large_or_damaged_metadata_does_not_matter():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    chunk = make_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile + bytes(2 << 20)))
    assert_halves(decode(insert(encode(make_halves()), chunk, b"IDAT")))
    jpeg = encode(make_halves(), "JPEG", quality=95)
    for start in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
                  b"http://ns.adobe.com/xap/1.0/\0<", b"ICC_PROFILE\0\x01\x14"):  # fmt: skip
        segment = struct.pack(">BBH", 0xFF, 0xE1 + (start[:1] == b"I"), 65535)
        segment += start.ljust(65533, b"<")
        assert_halves(decode(jpeg[:2] + segment * 20 + jpeg[2:]), 8)


def test_damaged_exif_data_does_not_change_the_rotation():
    """The tag that follows the rotation's gets each type of EXIF in turn, whatever its value is."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    exif[ExifTags.Base.XResolution] = 72.5
    content = encode(make_halves(), "JPEG", quality=95, exif=exif.tobytes())
    position = content.index(struct.pack(">H", ExifTags.Base.XResolution)) + 3
    for kind in range(14):
        damaged = content[:position] + bytes([kind]) + content[position + 1 :]
        assert_halves(decode(damaged), 8, BLUE, RED)


@pytest.mark.parametrize("kind", ["TGA", "JPEG2000", "AVIF", "ICO", "QOI", "PCX", "DDS", "MPO"])
def test_other_formats_are_decoded(kind):
    assert_halves(decode(encode(make_halves(), kind)), 12)


def test_formats_that_need_other_programs_are_rejected():
    with pytest.raises(Rejected, match="not_an_image"):
        decode(encode(make_halves(), "EPS"))
