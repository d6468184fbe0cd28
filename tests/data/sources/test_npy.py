"""Tests which tables and arrays the source npy can use, and errors about the others."""

import numpy as np
import pytest

from t2i_tpu.data.sources.npy import NpySource
from t2i_tpu.errors import UserError

IMAGES = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


def write(folder, images=IMAGES, captions="0\na\nb\nc\n", embeddings=None):
    """Write the three files of a source. Bytes are written as they are."""
    for name, content in (("imgs.npy", images), ("embeddings.npy", embeddings)):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            np.save(folder / name, content)
    content = captions if isinstance(captions, bytes) else captions.encode()
    (folder / "captions.csv").write_bytes(content)
    return str(folder)


def read_captions(folder):
    source = NpySource(folder)
    return [item.caption for unit in source.list_units() for item in source.read(unit)]


@pytest.mark.parametrize(
    ("table", "captions"),
    [
        ("0\na\nb\nc\n", ["a", "b", "c"]),
        ("0\r\na\r\nb\r\nc", ["a", "b", "c"]),
        ("caption\na, b and c\nb\nc\n", ["a, b and c", "b", "c"]),
        ('0\n"a, ""b"""\n"b\nb"\n""\n', ['a, "b"', "b\nb", ""]),
        ("id;caption\n1;a, b\n2;b\n3;c\n", ["a, b", "b", "c"]),
        ("caption,file\na,0.png\nb,1.png\nc,2.png\n", ["a", "b", "c"]),
        ("text,caption\nx,a\ny,b\nz,c\n", ["a", "b", "c"]),
        ("caption\na\nb\nc\n".encode("utf-16"), ["a", "b", "c"]),
        (b"\xef\xbb\xbfcaption\na\nb\nc\n\n", ["a", "b", "c"]),
        (b"0\na\n\xe9\nc\n", ["a", "\udce9", "c"]),
    ],
)
def test_tables_of_captions(tmp_path, table, captions):
    assert read_captions(write(tmp_path, captions=table)) == captions


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"images": IMAGES.astype(np.float32)}, r"imgs.npy holds rows of float32 \(4, 4\)"),
        ({"images": IMAGES[0, 0]}, r"imgs.npy holds rows of uint8 \(\)"),
        ({"images": np.zeros((3, 3, 4, 4), np.uint8)[:, :, :, :2]}, r"C = 1, 3 or 4"),
        ({"images": IMAGES[:0]}, "imgs.npy holds no images"),
        ({"images": IMAGES[:, :0]}, r"imgs.npy holds rows of uint8 \(0, 4\)"),
        ({"images": np.asfortranarray(IMAGES)}, "imgs.npy is not an array of rows"),
        ({"images": np.uint8(7)}, "imgs.npy is not an array of rows"),
        ({"images": np.array([{}, None, 1])}, "imgs.npy holds Python objects"),
        ({"images": b""}, "imgs.npy cannot be read as .npy"),
        ({"images": b"PK\x03\x04" * 99}, "imgs.npy cannot be read as .npy"),
        ({"images": b"\x93NUMPY\x01\x00\x05\x00{'a':"}, "imgs.npy cannot be read as .npy"),
        ({"images": None}, "imgs.npy cannot be read as .npy"),
        ({"captions": "0\na\nb\n"}, "imgs.npy 3, captions.csv 2"),
        ({"captions": ""}, "imgs.npy 3, captions.csv 0"),
        ({"captions": '0\na\n"b\nc\n'}, "captions.csv: row 2"),
        ({"embeddings": np.zeros(3, np.float32)}, r"embeddings.npy holds rows of float32 \(\)"),
        ({"embeddings": np.array([["a"], ["b"], ["c"]])}, "embeddings.npy holds rows of <U1"),
        ({"embeddings": np.array([[1], [2], None], object)}, "embeddings.npy holds Python objects"),
        ({"embeddings": np.zeros((2, 4), np.float32)}, "embeddings.npy 2"),
    ],
)
def test_unusable_files_are_named(tmp_path, files, words):
    with pytest.raises(UserError, match=words) as error:
        read_captions(write(tmp_path, **files))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_cut_array_is_noticed_before_it_is_read(tmp_path):
    path = write(tmp_path)
    content = (tmp_path / "imgs.npy").read_bytes()
    (tmp_path / "imgs.npy").write_bytes(content[:-1])
    with pytest.raises(UserError, match="imgs.npy ends after row 2 of 3"):
        next(NpySource(path).list_units())


def test_unneeded_embeddings_may_be_unusable(tmp_path):
    source = NpySource(write(tmp_path, embeddings=b"x"), keeps_embeddings=False)
    (unit,) = source.list_units()
    assert [item.embedding for item in source.read(unit)] == [None] * 3


def test_captions_file_must_exist(tmp_path):
    np.save(tmp_path / "imgs.npy", IMAGES)
    with pytest.raises(UserError, match="has no captions.csv"):
        next(NpySource(str(tmp_path)).list_units())
