"""Tests of the idx reader with small files, damaged files and Fashion MNIST."""

import gzip
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from t2i_tpu.data.sources.idx import compute_fingerprint, read_idx, read_label_names
from t2i_tpu.errors import UserError


@pytest.mark.parametrize("gzipped", [True, False])
def test_records_match_the_files(tmp_path, write_idx, gzipped):
    arrays = write_idx(tmp_path, train=20, test=17, gzipped=gzipped)
    for split, prefix in (("train", "train"), ("heldout", "t10k")):
        images, labels = arrays[prefix]
        records = list(read_idx(str(tmp_path), split))
        np.testing.assert_array_equal([record.image[:, :, 0] for record in records], images)
        assert [record.label for record in records] == labels.tolist()
        assert [record.caption for record in records] == [str(label) for label in labels]
        assert records[0].image.shape == (28, 28, 1) and records[0].image.dtype == np.uint8
    keys = [record.key for split in ("train", "heldout") for record in read_idx(tmp_path, split)]
    assert len(set(keys)) == 37


def test_labels_file_names_the_labels(tmp_path, write_idx):
    write_idx(tmp_path)
    before = compute_fingerprint(tmp_path)
    (tmp_path / "labels.txt").write_text("".join(f"class {label}\n" for label in range(10)))
    assert next(read_idx(tmp_path, "train")).caption == "class 0"
    assert compute_fingerprint(tmp_path) != before
    (tmp_path / "labels.txt").write_text("only one\n")
    with pytest.raises(UserError, match="label 9 .* only 1 label names; .*labels.txt"):
        read_idx(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\n\nc\n", "line 2 is empty"), (b"a\n\xe9\n", "line 2 is not UTF-8")],
)
def test_labels_file_must_name_every_label(tmp_path, write_idx, content, problem):
    write_idx(tmp_path)
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"labels.txt: {problem}"):
        read_idx(tmp_path, "train")


def test_labels_file_of_a_windows_editor(tmp_path):
    (tmp_path / "labels.txt").write_bytes("\ufeffKäfer\r\ndog\r\n\r\n".encode())
    assert read_label_names(str(tmp_path)) == ("Käfer", "dog")


def test_names_and_compression_may_be_those_of_other_downloads(tmp_path, write_idx):
    """Browsers decompress files but keep their names, and some archives have a dot before idx."""
    write_idx(tmp_path)
    expected = compute_fingerprint(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = gzip.decompress(path.read_bytes())
        path.unlink()
        name = path.name if "images" in path.name else path.stem.replace("-idx", ".idx")
        (tmp_path / name).write_bytes(content)
    assert compute_fingerprint(tmp_path) == expected


def test_fingerprint_depends_on_the_content_only(tmp_path, write_idx):
    write_idx(tmp_path / "a")
    write_idx(tmp_path / "b", gzipped=False)
    write_idx(tmp_path / "c", test=18)
    fingerprint = compute_fingerprint(tmp_path / "a")
    assert compute_fingerprint(tmp_path / "b") == fingerprint
    assert compute_fingerprint(tmp_path / "c") != fingerprint


def apply_inside_gzip(change):
    """Return a function that applies a change to the decompressed content of a gzip file."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


DAMAGES = {
    "empty": (lambda content: b"", "is empty"),
    "empty inside": (apply_inside_gzip(lambda content: b""), "is empty"),
    "cut gzip": (lambda content: content[: len(content) // 2], "cannot read"),
    "not gzip": (lambda content: b"<html>404</html>", "not an idx file .*3c68746d"),
    "more after gzip": (lambda content: content + b"more", "cannot read"),
    "corrupt gzip": (lambda content: content[:200] + b"\0" * 50 + content[250:], "cannot read"),
    "cut data": (apply_inside_gzip(lambda content: content[:-1]), r"has \d+ bytes of data"),
    "long data": (apply_inside_gzip(lambda content: content + b"x"), r"has \d+ bytes of data"),
    "cut header": (apply_inside_gzip(lambda content: content[:6]), "cut header"),
    "no items": (apply_inside_gzip(lambda content: content[:4] + bytes(12)), "no items"),
    "magic": (
        apply_inside_gzip(lambda content: b"\x89PNG" + content[4:]),
        "not an idx file .*89504e47",
    ),
    "floats": (apply_inside_gzip(lambda content: b"\0\0\x0d\x03" + content[4:]), "not an idx file"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_file_is_a_one_line_error(tmp_path, write_idx, kind):
    change, message = DAMAGES[kind]
    write_idx(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        read_idx(tmp_path, "heldout")
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_swapped_files_are_detected(tmp_path, write_idx):
    write_idx(tmp_path)
    images, labels = (tmp_path / f"train-{n}-ubyte.gz" for n in ("images-idx3", "labels-idx1"))
    labels.write_bytes(images.read_bytes())
    with pytest.raises(UserError, match="train-labels-idx1-ubyte.* not an idx file .*1 dimensions"):
        read_idx(tmp_path, "train")


def test_different_numbers_of_images_and_labels_are_an_error(tmp_path, write_idx):
    write_idx(tmp_path / "long", train=30)
    write_idx(tmp_path / "short", train=20)
    name = "train-labels-idx1-ubyte.gz"
    (tmp_path / "long" / name).write_bytes((tmp_path / "short" / name).read_bytes())
    with pytest.raises(UserError, match="30 images and 20 labels in its train- files"):
        read_idx(tmp_path / "long", "train")


@pytest.mark.parametrize("stem", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_missing_file_is_named(tmp_path, write_idx, stem):
    write_idx(tmp_path)
    (tmp_path / f"{stem}.gz").unlink()
    with pytest.raises(UserError, match=f"has no {stem}.gz"):
        read_idx(tmp_path, "heldout" if stem.startswith("t10k") else "train")
    with pytest.raises(UserError, match="idx folder .* has no"):
        read_idx(tmp_path / "nowhere", "train")


def decode_with_tensorflow(path, header):
    """Return the bytes of a gzipped file after a header of `header` bytes."""
    content = tf.io.decode_compressed(tf.io.read_file(path), "GZIP")
    return tf.io.decode_raw(content, tf.uint8).numpy()[header:]


@pytest.mark.parametrize(
    ("split", "prefix", "count"), [("train", "train", 6000), ("heldout", "t10k", 1000)]
)
def test_fashion_mnist_matches_tensorflow_decoding(fashion_mnist_idx, split, prefix, count):
    folder = str(fashion_mnist_idx)
    names = tfds.builder("fashion_mnist").info.features["label"].names
    assert list(read_label_names(folder)) == names
    records = list(read_idx(folder, split))
    assert np.bincount([record.label for record in records]).tolist() == [count] * 10
    assert all(record.caption == names[record.label] for record in records)

    paths = [os.path.join(folder, f"{prefix}-{n}-ubyte.gz") for n in ("images-idx3", "labels-idx1")]
    pixels = decode_with_tensorflow(paths[0], header=16).reshape(-1, 28, 28)
    labels = decode_with_tensorflow(paths[1], header=8)
    for index in itertools.chain(range(10), range(999, count * 10, 997)):
        np.testing.assert_array_equal(records[index].image[:, :, 0], pixels[index])
        assert records[index].label == labels[index]


def test_fashion_mnist_has_its_published_statistics(fashion_mnist_idx):
    """The mean and standard deviation that are commonly used to normalize it are 0.2860 and 0.3530."""
    images = np.stack([record.image for record in read_idx(str(fashion_mnist_idx), "train")])
    assert images.shape == (60000, 28, 28, 1)
    assert images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert images.std() / 255 == pytest.approx(0.3530, abs=1e-4)
    assert next(read_idx(str(fashion_mnist_idx), "train")).caption == "Ankle boot"
