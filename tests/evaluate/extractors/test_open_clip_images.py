"""Tests that extractors of open_clip models, and their exports, agree with open_clip itself."""

import importlib.util
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.evaluate.extractors.choose import make_extractor
from t2i_tpu.evaluate.extractors.image_graph import ImageGraph
from t2i_tpu.evaluate.extractors.onnx_images import GRAPH_NAME, EmbeddedImages
from t2i_tpu.text import EMBEDDED_CLIP
from t2i_tpu.text.open_clip_tower import import_open_clip

pytestmark = [
    pytest.mark.clip,
    pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="needs extra clip"),
]
WEIGHTS_NAME = "open_clip_model.safetensors"
VISION = {
    "vit": {"layers": 2, "width": 64, "head_width": 16, "image_size": 40, "patch_size": 8},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
}
PREPROCESS = {
    "default": {},
    "squash": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    "bilinear": {"interpolation": "bilinear", "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4]},
}


@pytest.fixture(scope="module")
def open_clip():
    return import_open_clip()


@pytest.fixture(scope="module")
def images():
    """Smooth color images, uint8 [70, 48, 48, 3], which take more than one batch."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((48, 48))) for image in noise])


def write_tiny_clip(open_clip, folder, vision="vit", preprocess="default"):
    """Write a model with random weights, and return its local-dir: spec."""
    import torch
    from safetensors.torch import save_file

    text = {"layers": 1, "width": 64, "heads": 4}
    model = {"embed_dim": 48, "vision_cfg": VISION[vision], "text_cfg": text}
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS[preprocess]}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {name: value.contiguous() for name, value in made.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME)
    return f"local-dir:{folder}"


def encode_with_open_clip(open_clip, spec, images):
    import torch

    model, _, transform = open_clip.create_model_and_transforms(spec)
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        return model.eval().encode_image(pixels, normalize=True).numpy()


@pytest.mark.parametrize(
    "vision, preprocess", [("vit", name) for name in PREPROCESS] + [("resnet", "default")]
)
def test_features_and_exported_features_equal_open_clip(
    open_clip, images, tmp_path, vision, preprocess
):
    from t2i_tpu.evaluate.extractors import export

    spec = write_tiny_clip(open_clip, tmp_path, vision, preprocess)
    expected = encode_with_open_clip(open_clip, spec, images)
    extractor = make_extractor(spec)
    assert (extractor.dim, extractor.reads_text, extractor.class_names) == (48, True, None)
    features = extractor.extract(images)
    np.testing.assert_allclose(features, expected * 48**0.5, atol=1e-4)

    model = open_clip.create_model(spec)
    export.export_graph(model, str(tmp_path), WEIGHTS_NAME)
    graph = ImageGraph(str(tmp_path / GRAPH_NAME))
    np.testing.assert_allclose(graph.run(images), expected, atol=1e-4)
    assert extractor.resize.startswith(graph.resize.removesuffix("(Pillow)"))


def test_preprocessing_makes_a_difference(open_clip, images, tmp_path):
    """The ways to prepare images differ enough for the test above to notice the wrong one."""
    features = []
    for name in PREPROCESS:
        spec = write_tiny_clip(open_clip, tmp_path, preprocess=name)
        features.append(make_extractor(spec).extract(images[:9]))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(features[first] - features[second]).max() > 1e-3


def test_preprocessing_of_a_tag_is_used(open_clip, images, tmp_path, monkeypatch):
    """open_clip gets the path of a tag's weights, so it does not look up the tag itself."""
    import torch

    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), weights)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: str(weights))
    tag = {"url": "", "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag_name: tag)
    extractor = make_extractor("ViT-B-32/some-tag")
    assert extractor.resize.startswith("224x224, bilinear")
    model, _, transform = open_clip.create_model_and_transforms(
        "ViT-B-32",
        str(weights),
        image_mean=tag["mean"],
        image_std=tag["std"],
        image_interpolation="bilinear",
    )
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images[:2]])
    with torch.inference_mode():
        expected = model.eval().encode_image(pixels, normalize=True).numpy()
    features = extractor.extract(images[:2])
    np.testing.assert_allclose(features, expected * extractor.dim**0.5, atol=1e-4)


def test_texts_and_classes_equal_open_clip(open_clip, images, tmp_path):
    import torch

    spec = write_tiny_clip(open_clip, tmp_path)
    extractor, names = make_extractor(spec), ["dog", "cat", "house " * 100]
    model = open_clip.create_model(spec).eval()
    with torch.inference_mode():
        texts = model.encode_text(open_clip.get_tokenizer(spec)(names), normalize=True).numpy()
    np.testing.assert_allclose(extractor.encode_texts(names), texts, atol=1e-5)
    features = extractor.extract(images)
    classes = extractor.classify(features, names)
    np.testing.assert_array_equal(classes, (features @ texts.T).argmax(1))


def test_grey_images_are_read_as_rgb(open_clip, images, tmp_path):
    extractor = make_extractor(write_tiny_clip(open_clip, tmp_path))
    grey = images[:3, :, :, :1]
    rgb = np.repeat(grey, 3, axis=3)
    np.testing.assert_allclose(extractor.extract(grey), extractor.extract(rgb), atol=1e-5)


def test_features_do_not_depend_on_the_batch(open_clip, images, tmp_path):
    extractor = make_extractor(write_tiny_clip(open_clip, tmp_path))
    together = extractor.extract(images)
    for index in (0, 63, 64, 69):
        (alone,) = extractor.extract(images[index : index + 1])
        np.testing.assert_allclose(alone, together[index], atol=1e-5)
    assert extractor.extract(images[:0]).shape == (0, 48)


def test_embedded_tower_equals_open_clip_and_what_the_build_writes(open_clip, images, tmp_path):
    from tools.build_embedded import clip_training

    expected = encode_with_open_clip(open_clip, f"local-dir:{EMBEDDED_CLIP}", images)
    shipped = EmbeddedImages()
    embeddings = shipped.extract(images) / shipped.dim**0.5
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    assert make_extractor(f"local-dir:{EMBEDDED_CLIP}").weights_sha256 == shipped.weights_sha256

    shutil.copytree(EMBEDDED_CLIP, tmp_path, dirs_exist_ok=True)
    os.unlink(tmp_path / GRAPH_NAME)
    clip_training.export_towers(str(tmp_path))
    rebuilt = EmbeddedImages(str(tmp_path))
    np.testing.assert_allclose(rebuilt.extract(images), shipped.extract(images), atol=1e-5)
    content = (tmp_path / GRAPH_NAME).read_bytes()
    assert b"site-packages" not in content and str(tmp_path).encode() not in content
