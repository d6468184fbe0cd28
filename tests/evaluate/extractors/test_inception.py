"""Tests that features of Inception are torch-fidelity's, with random weights."""

import hashlib
import importlib.util
import pathlib
import sys

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import make_extractor

needs_clip = [
    pytest.mark.clip,
    pytest.mark.skipif(
        importlib.util.find_spec("torch_fidelity") is None, reason="needs extra clip"
    ),
]


def test_missing_torch_fidelity_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match="pip install torch-fidelity") as error:
        make_extractor("inception:weights.pth")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, whose name ends in the first digits of its hash."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        # Without a file, the constructor downloads weights.
        patch.setattr(
            feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {}
        )
        kind = feature_extractor_inceptionv3.FeatureExtractorInceptionV3
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        network = kind("random", ["2048"])
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # torch's own choice makes the features vanish
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"weights-2015-12-05-{digest[:8]}.pth"))


def make_images(channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (35, 32, 32, channels), dtype=np.uint8)


class TestInception:
    pytestmark = needs_clip

    def test_features_equal_torch_fidelity(self, weights):
        """The images take more than one batch."""
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        extractor = make_extractor(f"inception:{weights}")
        images = make_images()
        features = extractor.extract(images)
        network = FeatureExtractorInceptionV3("random", ["2048"], str(weights))
        with torch.inference_mode():
            (expected,) = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        assert features.shape == (35, 2048) == (35, extractor.dim)
        difference = np.abs(features - expected.numpy()).max()
        assert difference < 1e-4 * np.std(expected.numpy(), axis=0).mean()

    def test_grey_images_are_read_as_rgb(self, weights):
        extractor, grey = make_extractor(f"inception:{weights}"), make_images(1)[:2]
        rgb = np.repeat(grey, 3, axis=3)
        np.testing.assert_allclose(extractor.extract(grey), extractor.extract(rgb), rtol=1e-4)

    def test_attributes(self, weights):
        extractor = make_extractor(f"inception:{weights}")
        assert extractor.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert (extractor.reads_text, extractor.class_names) == (False, ())
        with pytest.raises(UserError, match="reads no text"):
            extractor.encode_texts(["a dog"])
        with pytest.raises(UserError, match="knows no classes"):
            extractor.classify(np.zeros((1, 2048), np.float32), ["dog"])

    def test_missing_file_is_an_error_that_says_where_to_get_it(self):
        with pytest.raises(UserError, match=r"no file '/no/such.pth'; get weights-.*GitHub"):
            make_extractor("inception:/no/such.pth")

    def test_hash_in_the_name_is_checked(self, weights, tmp_path):
        damaged = tmp_path / weights.name
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(UserError, match="the file is damaged") as error:
            make_extractor(f"inception:{damaged}")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("kind", ["other weights", "no weights", "code"])
    def test_other_files_are_an_error(self, tmp_path, kind):
        import torch

        path = tmp_path / "weights.pth"
        if kind == "other weights":
            torch.save({"fc.weight": torch.zeros(3)}, path)
        elif kind == "no weights":
            path.write_bytes(b"not a checkpoint")
        else:
            torch.save({"fc.weight": Touch(tmp_path / "ran")}, path)
        with pytest.raises(UserError, match="does not contain the weights") as error:
            make_extractor(f"inception:{path}")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "ran").exists()


class Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)
