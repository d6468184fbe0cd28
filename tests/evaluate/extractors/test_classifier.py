"""Tests of the classifier of Fashion MNIST that ships with the package."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.data.sources import idx
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import make_extractor
from t2i_tpu.evaluate.extractors.classifier import FASHION_MNIST, WEIGHTS_NAME

SHA256 = "359111b76f734fbf20ca4c3457e9f25d63ec248bd7c10af00b0a3dc77fc5b400"


@pytest.fixture(scope="module")
def extractor():
    return make_extractor("fashion_mnist")


@pytest.fixture(scope="module")
def heldout(fashion_mnist_idx):
    """The 10,000 test images and their labels."""
    records = list(idx.read_idx(str(fashion_mnist_idx), "heldout"))
    images = np.stack([record.image for record in records])
    return images, np.array([record.label for record in records])


def test_weights_are_the_recorded_ones(extractor):
    """Figures of two evaluations can be compared only if their extractor is the same."""
    with open(os.path.join(FASHION_MNIST, WEIGHTS_NAME), "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == SHA256
    assert extractor.weights_sha256 == SHA256


def test_files_take_less_than_a_megabyte():
    names = os.listdir(FASHION_MNIST)
    assert sum(os.path.getsize(os.path.join(FASHION_MNIST, name)) for name in names) < 1 << 20


def test_accuracy_on_the_test_images(extractor, heldout, fashion_mnist_idx):
    images, labels = heldout
    assert len(images) == 10_000
    names = idx.read_label_names(str(fashion_mnist_idx))
    assert extractor.class_names == names
    classes = extractor.classify(extractor.extract(images), names)
    assert classes.dtype == np.int64
    assert (classes == labels).mean() >= 0.93


def test_features_do_not_depend_on_the_batch(extractor, heldout):
    images = heldout[0][:300]  # more than one batch
    together = extractor.extract(images)
    assert together.shape == (300, extractor.dim) and together.dtype == np.float32
    scale = together.std()
    for index in (0, 255, 256, 299):
        (alone,) = extractor.extract(images[index : index + 1])
        np.testing.assert_allclose(alone, together[index], atol=1e-5 * scale)
    assert extractor.extract(images[:0]).shape == (0, extractor.dim)


def test_images_of_another_size_are_resized(extractor, heldout):
    """Enlarged images keep most of their classes."""
    images, labels = heldout[0][:500], heldout[1][:500]
    large = [np.asarray(Image.fromarray(image[..., 0]).resize((56, 56))) for image in images]
    features = extractor.extract(np.stack(large)[..., None])
    accuracy = (extractor.classify(features, extractor.class_names) == labels).mean()
    assert accuracy > 0.85 and extractor.resize == "28x28, bicubic (Pillow)"


def test_rgb_images_are_an_error(extractor):
    with pytest.raises(UserError, match="reads gray images") as error:
        extractor.extract(np.zeros((2, 28, 28, 3), np.uint8))
    assert "\n" not in str(error.value)


def test_other_classes_are_an_error(extractor):
    features = np.zeros((2, extractor.dim), np.float32)
    with pytest.raises(UserError, match="class 'dog', only T-shirt/top, Trouser") as error:
        extractor.classify(features, ["Trouser", "dog"])
    assert "\n" not in str(error.value)


def test_some_classes_in_another_order(extractor, heldout):
    """Only the given classes can be chosen."""
    images, labels = heldout
    bags = extractor.extract(images[labels == extractor.class_names.index("Bag")][:50])
    classes = extractor.classify(bags, ["Sandal", "Bag", "Trouser"])
    assert (classes == 1).mean() > 0.95
    assert set(extractor.classify(bags, ["Sandal", "Trouser"])) <= {0, 1}


def test_texts_are_an_error(extractor):
    assert not extractor.reads_text
    with pytest.raises(UserError, match="'fashion_mnist' reads no text; choose 'embedded'"):
        extractor.encode_texts(["a boot"])
