"""Tests that the embedded CLIP agrees with open_clip, without open_clip."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from t2i_tpu import text
from t2i_tpu.data import reader
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import make_extractor

REFERENCE = os.path.join(os.path.dirname(__file__), "clip_reference.npz")
FOLDER = os.path.join(os.path.dirname(text.EMBEDDED_CLIP), "emoji")


@pytest.fixture(scope="module")
def extractor():
    return make_extractor("embedded")


@pytest.fixture(scope="module")
def heldout():
    """All held-out emoji."""
    dataset = reader.open_dataset(FOLDER, "embedding", 64)
    return dataset.examples("heldout", dataset.manifest.num_examples("heldout"))


@pytest.fixture(scope="module")
def images(heldout):
    return np.stack([example["image"] for example in heldout])


def test_features_equal_open_clip(extractor, heldout, images):
    reference = np.load(REFERENCE)
    count = len(reference["keys"])
    assert count == 32
    assert [example["key"] for example in heldout[:count]] == reference["keys"].tolist()
    features = extractor.extract(images[:count])
    assert features.dtype == np.float32
    # The mean square of each feature is 1, but open_clip's embeddings have norm 1.
    embeddings = features / extractor.dim**0.5
    np.testing.assert_allclose(embeddings, reference["features"], atol=1e-4, rtol=0)
    assert np.abs(reference["features"][1:] - reference["features"][:-1]).max(1).min() > 1e-2


def test_features_do_not_depend_on_the_batch(extractor, images):
    """The images take more than one batch."""
    together = extractor.extract(images)
    assert len(images) > 256 and together.shape == (len(images), extractor.dim)
    for index in (0, 255, 256, len(images) - 1):
        (alone,) = extractor.extract(images[index : index + 1])
        np.testing.assert_allclose(alone, together[index], atol=1e-5)
    assert extractor.extract(images[:0]).shape == (0, extractor.dim)


def test_memory_mapped_images(extractor, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:9])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(extractor.extract(mapped), extractor.extract(images[:9]))


def test_captions_find_their_images(extractor, heldout, images):
    """docs/data.md reports the same shares, which open_clip measured with torch's way to resize."""
    texts = extractor.encode_texts([example["caption"] for example in heldout])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    products = texts @ extractor.extract(images).T
    ranks = (products > np.diag(products)[:, None]).sum(1)
    assert np.mean(ranks == 0) == pytest.approx(0.921, abs=0.006)
    assert np.mean(ranks < 5) == pytest.approx(0.994, abs=0.006)


def test_classes_are_found_by_their_names(extractor, heldout, images):
    names = ["pizza", "dog", "red heart", "rainbow"]
    train = reader.open_dataset(FOLDER, "embedding", 64).examples("train", 4, tuple(names))
    features = extractor.extract(np.stack([example["image"] for example in train]))
    classes = extractor.classify(features, names)
    assert classes.dtype == np.int64 and classes.tolist() == [0, 1, 2, 3]
    assert extractor.classify(features, names[::-1]).tolist() == [3, 2, 1, 0]


def test_grey_images_are_read_as_rgb(extractor, images):
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images[:5]])
    rgb = np.repeat(grey[..., None], 3, axis=3)
    np.testing.assert_allclose(
        extractor.extract(grey[..., None]), extractor.extract(rgb), atol=1e-5
    )


def test_resizing_to_32_pixels_uses_bicubic_pillow(extractor, images):
    small = [np.asarray(Image.fromarray(image).resize((32, 32), 3)) for image in images[:5]]
    np.testing.assert_array_equal(extractor.extract(images[:5]), extractor.extract(np.stack(small)))
    assert extractor.resize == "32x32, bicubic (Pillow)"


@pytest.mark.parametrize("shape", [(2, 8, 9, 3), (2, 8, 8, 4), (8, 8, 3), (2, 0, 0, 3)])
def test_images_of_a_wrong_shape_are_an_error(extractor, shape):
    with pytest.raises(UserError, match="square images") as error:
        extractor.extract(np.zeros(shape, np.uint8))
    assert "\n" not in str(error.value)


def test_images_of_a_wrong_dtype_are_an_error(extractor):
    with pytest.raises(UserError, match="float32 images"):
        extractor.extract(np.zeros((2, 8, 8, 3), np.float32))


def test_attributes(extractor):
    assert extractor.extractor_id == "embedded"
    assert extractor.weights_sha256 == text.make_encoder("embedded").weights_sha256
    assert (extractor.dim, extractor.reads_text, extractor.class_names) == (128, True, None)


def test_no_torch_is_needed():
    hide = "import sys; sys.modules['torch'] = sys.modules['open_clip'] = None; "
    extract = (
        "import numpy; from t2i_tpu.evaluate.extractors.choose import make_extractor; "
        "make_extractor('embedded').extract(numpy.zeros((1, 64, 64, 3), 'uint8'))"
    )
    subprocess.run([sys.executable, "-c", hide + extract], check=True)
